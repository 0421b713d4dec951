"""The claims, in the order they are run: the most telling first."""

from __future__ import annotations

from benchmarks.reproduction.claim import Claim
from benchmarks.reproduction.claims.drift import R6
from benchmarks.reproduction.claims.dynamic_rounds import R5
from benchmarks.reproduction.claims.fading import R2
from benchmarks.reproduction.claims.hybrid import R4
from benchmarks.reproduction.claims.out_of_scope import R3
from benchmarks.reproduction.claims.overconfidence import R1
from benchmarks.reproduction.claims.sharing import R7
from benchmarks.reproduction.claims.traps import R8

CLAIMS: dict[str, Claim] = {one.name: one for one in (R8, R1, R5, R3, R7, R6, R2, R4)}

"""What the defaults rest on: the same rows and steps, and one thing different."""

from __future__ import annotations

from benchmarks.reproduction.ablations.draws import A3
from benchmarks.reproduction.ablations.forgetting import A5
from benchmarks.reproduction.ablations.minibatches import A9
from benchmarks.reproduction.ablations.recipes import A1, A2, A4, A7
from benchmarks.reproduction.ablations.short_rounds import A8
from benchmarks.reproduction.ablations.variants import A6
from benchmarks.reproduction.claim import Claim

ABLATIONS: dict[str, Claim] = {one.name: one for one in (A1, A2, A3, A4, A5, A6, A7, A8, A9)}

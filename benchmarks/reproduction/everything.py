"""All that is run and written down: the claims, then what the defaults rest on."""

from __future__ import annotations

from benchmarks.reproduction.ablations import ABLATIONS
from benchmarks.reproduction.claim import Claim
from benchmarks.reproduction.claims import CLAIMS

EVERYTHING: dict[str, Claim] = {**CLAIMS, **ABLATIONS}

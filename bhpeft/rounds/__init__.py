"""Run a round: the champion's posterior in, a decision out.

backlog     where batches land, and which are still to be learned
memory      the chain's frozen hold-out rows
replay      a few training rows of each batch, rehearsed by later rounds
intake      a batch, checked, split and tokenised
training    prior, fit, and the posterior's health
trial       candidate against champion: drift, report, verdicts
recording   the MLflow run, the version, the alias
learn       the composition, readable in a minute
"""

from __future__ import annotations

from bhpeft.rounds.backlog import landing_of, pending
from bhpeft.rounds.learn import (
    IO_STEPS,
    Outcome,
    direct,
    learn,
    roll_back,
    set_unreadable_aside,
)

__all__ = [
    "learn",
    "pending",
    "landing_of",
    "set_unreadable_aside",
    "roll_back",
    "Outcome",
    "direct",
    "IO_STEPS",
]

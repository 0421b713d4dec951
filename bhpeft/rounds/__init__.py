"""Run a round: the champion's posterior in, a decision out.

freshness   whether a batch is overdue
backlog     where batches land, and which are still to be learned
memory      the chain's frozen hold-out rows
replay      a few training rows of each batch, rehearsed by later rounds
intake      a batch, checked, split and tokenised
training    prior, fit, and the posterior's health
trial       candidate against champion: drift, report, verdicts
recording   the MLflow run, the version, the alias
learn       the composition, readable in a minute
turn        which batches may be learned now, and why none may
overview    every stream at a glance
rebuild     a chain learned again without a bad batch
release     a batch that is parked, refused or in quarantine is pending again
approval    a person's decision about a held candidate
shortage    running out of memory, by name
"""

from __future__ import annotations

from bhpeft.rounds.approval import approve, expire, reject, supersede
from bhpeft.rounds.backlog import gathered, landing_of, pending
from bhpeft.rounds.learn import (
    IO_STEPS,
    Outcome,
    direct,
    find_parent,
    learn,
    roll_back,
    set_unreadable_aside,
)
from bhpeft.rounds.overview import Glance, overview
from bhpeft.rounds.release import Aside, release, set_aside_batches
from bhpeft.rounds.turn import Turn, turn

__all__ = [
    "learn",
    "find_parent",
    "pending",
    "landing_of",
    "gathered",
    "set_unreadable_aside",
    "roll_back",
    "turn",
    "Turn",
    "Glance",
    "overview",
    "Aside",
    "release",
    "set_aside_batches",
    "approve",
    "reject",
    "expire",
    "supersede",
    "Outcome",
    "direct",
    "IO_STEPS",
]

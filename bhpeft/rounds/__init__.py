"""Run a round: the champion's posterior in, a decision out.

freshness   whether a batch is overdue
backlog     where batches land, and which are still to be learned
memory      the chain's frozen hold-out rows
replay      a few training rows of each batch, rehearsed by later rounds
soundness   which batches can be learned; the others are set aside
intake      a batch, checked, split and tokenised
group       a champion has moved: its group's population follows
population  what a group's streams have in common, and how it follows their champions
training    prior, fit, and the posterior's health
trial       candidate against champion: drift, report, verdicts
recording   the MLflow run, the version, the alias
learn       the composition, readable in a minute
turn        which batches may be learned now, and why none may
overview    every stream at a glance
rebuild     a chain learned again without a bad batch
leftovers   what killed processes left on the disk
release     a batch that is parked, refused or in quarantine is pending again
approval    a person's decision about a held candidate
shortage    running out of memory, by name
"""

from __future__ import annotations

from bhpeft.rounds.approval import approve, expire, reject, supersede
from bhpeft.rounds.backlog import gathered, landing_of, pending
from bhpeft.rounds.group import tell_group
from bhpeft.rounds.learn import (
    IO_STEPS,
    Outcome,
    direct,
    find_parent,
    learn,
    roll_back,
)
from bhpeft.rounds.overview import Glance, overview
from bhpeft.rounds.release import Aside, release, set_aside_batches
from bhpeft.rounds.soundness import set_unreadable_aside
from bhpeft.rounds.turn import Turn, turn

__all__ = [
    "learn",
    "find_parent",
    "pending",
    "landing_of",
    "gathered",
    "set_unreadable_aside",
    "roll_back",
    "tell_group",
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

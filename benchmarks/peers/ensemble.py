"""Deep ensemble: five stock learners, each with a start of its own.

Source: Lakshminarayanan et al. 2017 (arXiv 1612.01474).
"""

from __future__ import annotations

import torch

from benchmarks.peers.problem import Learner, Problem
from benchmarks.peers.stock import Classifier, passes, step_of

MEMBERS = 5


def learner(problem: Problem) -> Learner:
    """Return a step of every member; K draws are the first K members, over again past the last."""
    members = [Classifier(problem) for _ in range(MEMBERS)]
    for member in members[1:]:
        for parameter in member.learned().values():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
    steps = [step_of(member, problem) for member in members]

    def step() -> None:
        for one in steps:
            one()

    def probabilities(draws: int) -> torch.Tensor:
        chosen = [members[k % MEMBERS] for k in range(draws)]
        return torch.cat([passes(member, problem, 1) for member in chosen])

    return Learner(step, probabilities)

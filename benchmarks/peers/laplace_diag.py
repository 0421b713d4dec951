"""`laplace-torch` with a diagonal curvature of the likelihood."""

from __future__ import annotations

from benchmarks.peers.laplace_fit import fitted
from benchmarks.peers.problem import Learner, Problem


def learner(problem: Problem) -> Learner:
    """Return the fit of one minibatch."""
    return fitted(problem, "diag")

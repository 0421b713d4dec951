"""`laplace-torch`: curvature of peft's LoRA after training, one minibatch of its fit.

A Laplace approximation trains like the stock point estimate and pays afterwards: one pass of this
over the data gives the posterior.

Source: the package laplace-torch; Laplace-LoRA, Yang et al. 2024 (arXiv 2308.13111).
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.budget import Skipped
from benchmarks.peers.problem import Learner, Problem
from benchmarks.peers.stock import Classifier


class _OneMinibatch:
    """A loader of the problem's minibatch, as laplace-torch wants it."""

    def __init__(self, problem: Problem):
        self.dataset = range(problem.rows)
        self.minibatch = problem.minibatch

    def __iter__(self):
        yield dict(self.minibatch)


def fitted(problem: Problem, structure: str) -> Learner:
    """Return the fit of one minibatch in place of a step, and K draws of the linearised model."""
    try:
        from laplace import Laplace
        from laplace.curvature import CurvlinopsGGN
    except ImportError as absent:
        raise Skipped("laplace-torch is not installed; `make setup` installs it") from absent
    model = Classifier(problem)
    found = Laplace(
        model,
        "classification",
        subset_of_weights="all",
        hessian_structure=structure,
        backend=CurvlinopsGGN,
    )
    loader = _OneMinibatch(problem)

    def probabilities(draws: int) -> Tensor:
        samples: Tensor = found.predictive_samples(
            dict(problem.minibatch), pred_type="glm", n_samples=draws
        )
        return samples.detach()

    return Learner(lambda: found.fit(loader), probabilities)

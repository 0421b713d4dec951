"""IVON: a Newton-like optimiser whose second moment is the precision of a diagonal Gaussian.

With ℓ the mean loss of a minibatch, λ the number of rows, δ the weight decay, g and h the running
gradient and curvature, and every operation a coordinate's own:

    σ = 1 / √(λ (h + δ))          θ = m + σ ε                     ĝ = ∇ℓ(θ),   ĥ = ĝ (θ − m) / σ²
    g ← β₁ g + (1 − β₁) ĝ         h ← β₂ h + (1 − β₂) ĥ + ½ (1 − β₂)² (h − ĥ)² / (h + δ)
    m ← m − α (g / (1 − β₁ᵗ) + δ m) / (h + δ)

The last term of h keeps it positive. Written from the paper's algorithm.

Source: Shen et al. 2024 (arXiv 2402.17641), Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.peers.problem import SEED, Learner, Problem
from benchmarks.peers.stock import Classifier, passes


class Ivon:
    """The optimiser's state, on one flat vector."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rows: int,
        rate: float = 0.03,
        betas: tuple[float, float] = (0.9, 0.99999),
        decay: float = 1e-4,
        start: float = 0.1,
    ):
        self.parameters = list(parameters)
        self.mean = nn.utils.parameters_to_vector(self.parameters).detach().clone()
        self.rows, self.rate, self.betas, self.decay = rows, rate, betas, decay
        self.gradient = torch.zeros_like(self.mean)
        self.curvature = torch.full_like(self.mean, start)
        self.steps = 0
        self.generator = Generator().manual_seed(SEED)

    @property
    def std(self) -> Tensor:
        """Return σ, (P,)."""
        return (self.rows * (self.curvature + self.decay)).rsqrt()

    def draw(self) -> Tensor:
        """Put a draw in place of the parameters; return how far from the mean it is."""
        away = self.std * torch.randn(self.mean.shape, generator=self.generator)
        nn.utils.vector_to_parameters(self.mean + away, self.parameters)
        return away

    def step(self, loss: Callable[[], Tensor]) -> None:
        """Draw, differentiate there, and move the mean and the precision."""
        std = self.std
        away = self.draw()
        for parameter in self.parameters:
            parameter.grad = None
        loss().backward()  # type: ignore[no-untyped-call]
        found = torch.cat([_gradient(p).flatten() for p in self.parameters])
        (b1, b2), h = self.betas, self.curvature
        new = found * away / std.square()
        self.steps += 1
        self.gradient.lerp_(found, 1 - b1)
        correction = 0.5 * (1 - b2) ** 2 * (h - new).square() / (h + self.decay)
        self.curvature = b2 * h + (1 - b2) * new + correction
        unbiased = self.gradient / (1 - b1**self.steps)
        step = (unbiased + self.decay * self.mean) / (self.curvature + self.decay)
        self.mean.sub_(step, alpha=self.rate)
        nn.utils.vector_to_parameters(self.mean, self.parameters)


def learner(problem: Problem) -> Learner:
    """Return peft's LoRA under IVON, and passes that each draw anew."""
    model = Classifier(problem)
    optimiser = Ivon(model.learned().values(), problem.rows)

    def step() -> None:
        optimiser.step(lambda: cross_entropy(model(problem.minibatch), problem.minibatch["labels"]))

    def probabilities(draws: int) -> Tensor:
        found = []
        for _ in range(draws):
            optimiser.draw()
            found.append(passes(model, problem, 1))
        return torch.cat(found)

    return Learner(step, probabilities)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

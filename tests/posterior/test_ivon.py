from __future__ import annotations

from math import log

import pytest
import torch
from torch import Generator, Tensor

from bhpeft.learning.travel import ivon_needed
from bhpeft.posterior import MeanField, nll_gradient
from bhpeft.posterior.elbo import ElboGradient, optimal_std
from bhpeft.posterior.ivon import MOMENTUM, Pace, ivon_step

ROWS, LAMBDA = 50, 0.5
SCALE = LAMBDA / ROWS


def gaussian(mean: float, std: float, weights: int = 4, scale: str = "softplus") -> MeanField:
    value = torch.full((weights,), mean)
    return MeanField.from_std(value, torch.full_like(value, std), {"w": (weights,)}, scale)


@pytest.mark.parametrize("scale", ["softplus", "square"])
@pytest.mark.parametrize("start", [0.001, 0.5])
def test_on_a_quadratic_it_arrives_at_the_exact_posterior(scale: str, start: float) -> None:
    """A mean NLL of ½ h (w − 1)²: mean and σ are the conjugate ones, from either side."""
    curvature = torch.tensor([0.0, 0.1, 1.0, 10.0])
    prior = gaussian(-0.5, 0.2, scale=scale)
    q, momentum = gaussian(-0.5, start, scale=scale), torch.zeros(4)
    source = Generator().manual_seed(0)
    tail = []
    for step in range(1, 6001):
        noise = q.noise(source)
        found = nll_gradient(q, noise, curvature * (q.at(noise) - 1.0))
        q, momentum = ivon_step(q, prior, momentum, found, Pace(SCALE, 0.05, 0.01, step))
        if step > 3000:
            tail.append(torch.stack([q.mean, q.std]))
    mean, std = torch.stack(tail).mean(0)
    expected = [optimal_std(0.2, ROWS, float(h), LAMBDA) for h in curvature]
    torch.testing.assert_close(std, torch.tensor(expected), rtol=0.03, atol=0)
    weight = curvature / (curvature + SCALE / 0.04)
    torch.testing.assert_close(mean, -0.5 + 1.5 * weight, rtol=0, atol=0.03)


def published(
    mean: Tensor, h: Tensor, g: Tensor, delta: float, seen: tuple[Tensor, Tensor], step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The algorithm as printed, with weight decay δ and λ·N = 1/SCALE."""
    gradient, eps = seen
    b1, b2, rate = MOMENTUM, 0.99, 0.05
    std = (SCALE / (h + delta)).sqrt()
    observed = gradient * eps / std
    g = b1 * g + (1 - b1) * gradient
    h = b2 * h + (1 - b2) * observed + 0.5 * (1 - b2) ** 2 * (h - observed) ** 2 / (h + delta)
    mean = mean - rate * (g / (1 - b1**step) + delta * mean) / (h + delta)
    return mean, h, g


def test_a_weight_decay_is_a_prior_around_zero() -> None:
    """Twenty steps on arbitrary gradients equal the published form, which keeps h apart."""
    source = Generator().manual_seed(1)
    prior, q = gaussian(0.0, 0.3), gaussian(0.2, 0.1)
    delta = SCALE / 0.3**2
    mean, g = q.mean.double(), torch.zeros(4, dtype=torch.float64)
    h = SCALE / q.std.double() ** 2 - delta
    momentum = torch.zeros(4)
    for step in range(1, 21):
        gradient, eps = torch.randn(4, generator=source), torch.randn(4, generator=source)
        found = nll_gradient(q, eps, gradient)
        q, momentum = ivon_step(q, prior, momentum, found, Pace(SCALE, 0.05, 0.01, step))
        seen = gradient.double(), eps.double()
        mean, h, g = published(mean, h, g, delta, seen, step)
    torch.testing.assert_close(q.mean.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(q.std.double(), (SCALE / (h + delta)).sqrt(), rtol=1e-4, atol=0)


def test_without_a_gradient_a_posterior_at_its_prior_keeps_every_bit() -> None:
    prior = gaussian(0.3, 0.07)
    nothing = ElboGradient(torch.zeros(4), torch.zeros(4))
    q, _ = ivon_step(prior, prior, torch.zeros(4), nothing, Pace(SCALE, 0.05, 0.01, 1))
    assert torch.equal(q.mean, prior.mean)
    assert torch.equal(q.rho, prior.rho)


def test_sigma_stays_real_whatever_a_draw_shows() -> None:
    """Curvatures of ± a million: the precision is at least halved, never negative."""
    q = gaussian(0.0, 0.1)
    wild = ElboGradient(torch.zeros(4), torch.tensor([-1e6, -1.0, 1.0, 1e6]))
    after, _ = ivon_step(q, q, torch.zeros(4), wild, Pace(SCALE, 0.0, 0.5, 1))
    assert bool(after.std.isfinite().all() & (after.std > 0).all())
    assert float(after.std.max()) <= 0.1 * 2**0.5 * 1.001


@pytest.mark.parametrize(("start", "optimum"), [(0.02, 0.1), (0.1, 0.03), (0.1, 0.0999)])
def test_the_travel_it_needs_is_that_of_the_precisions_average(
    start: float, optimum: float
) -> None:
    """A noiseless run of exactly −log β₂ · steps ≥ needed ends within a tenth of σ*."""
    needed = ivon_needed(start, optimum)
    steps = int(needed / -log(0.99)) + 1

    def after(steps: int) -> float:
        precision = optimum**-2 + (start**-2 - optimum**-2) * 0.99**steps
        return float(precision**-0.5) / optimum

    assert 0.899 < after(steps) < 1 / 0.899
    if needed:
        assert not 0.9 < after(steps - 2) < 1 / 0.9

"""Rounds on a model whose posterior is known: the facts and the traps the product rests on.

The model is linear with a diagonal design, y = x_j·w_j + noise, so mean field is exact: N rows of
curvature h (Fisher information of one row) and target t turn N(m̃, s̃²) into the Gaussian with
precision 1/s̃² + N·h/λ and mean (m̃/s̃² + N·h·t/λ) divided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import pytest
import torch
from torch import Tensor

from bhpeft.posterior import (
    SCALES,
    MeanField,
    elbo_gradient,
    kl_scale,
    online_precision,
    power_prior,
)

SHAPES = {"w": (3,)}
# ε = ±1 has the first three moments of N(0, 1), so two such draws integrate a quadratic exactly.
TWO_POINTS = torch.tensor([[1.0], [-1.0]])


@dataclass(frozen=True)
class Rows:
    """N rows with curvature h (3,) and least-squares target t (3,): NLL = ½ Σ h (w − t)²."""

    count: int
    curvature: Tensor
    target: Tensor

    def draw_gradient(self, draws: Tensor) -> Tensor:
        """Return d(mean NLL over all draws)/d(draw), (S, 3)."""
        return self.curvature * (draws - self.target) / len(draws)


def base(std: float = 0.5, scale: str = "softplus") -> MeanField:
    return MeanField.from_std(torch.zeros(3), torch.full((3,), std), SHAPES, scale)


def learn(prior: MeanField, rows: Rows, kl_weight: float = 1.0, steps: int = 600) -> MeanField:
    """Run one round: start at q = prior and follow `elbo_gradient` with a decaying Adam."""
    q = MeanField(prior.mean.clone(), prior.rho.clone(), SHAPES, prior.scale)
    # rho's gradient falls as σ², a thousandfold on these ways; a long memory of it (β2 = 0.999)
    # would shrink the steps with it and σ would stop half-way.
    optimiser = torch.optim.Adam([q.mean, q.rho], lr=0.05, betas=(0.9, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    eps = TWO_POINTS.expand(-1, 3)
    for _ in range(steps):
        draw_grad = rows.draw_gradient(q.at(eps))
        gradient = elbo_gradient(q, prior, eps, draw_grad, kl_scale(kl_weight, rows.count))
        q.mean.grad, q.rho.grad = gradient.mean, gradient.rho
        optimiser.step()
        schedule.step()
    return q


def exact(prior: MeanField, rows: Rows, kl_weight: float = 1.0) -> MeanField:
    """Return the posterior in closed form."""
    old, new = prior.std**-2, rows.count * rows.curvature / kl_weight
    mean = (prior.mean * old + new * rows.target) / (old + new)
    return MeanField.from_std(mean, (old + new) ** -0.5, SHAPES, prior.scale)


def rows(count: int, curvature: list[float], target: list[float]) -> Rows:
    return Rows(count, torch.tensor(curvature), torch.tensor(target))


FIRST = rows(40, [1.0, 0.3, 0.05], [1.0, -0.5, 0.2])
SECOND = rows(25, [0.5, 2.0, 0.1], [0.0, 0.7, -1.0])
# All 65 rows at once: curvatures average over rows, targets by precision.
_SUM = 40 * FIRST.curvature + 25 * SECOND.curvature
JOINT = Rows(
    65,
    _SUM / 65,
    (40 * FIRST.curvature * FIRST.target + 25 * SECOND.curvature * SECOND.target) / _SUM,
)


@pytest.mark.parametrize("scale", sorted(SCALES))
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_two_rounds_equal_one_joint_round(scale: str, kl_weight: float) -> None:
    """Posterior → prior → posterior learns what all rows at once teach, for any constant λ."""
    two = learn(learn(base(scale=scale), FIRST, kl_weight), SECOND, kl_weight)
    joint = learn(base(scale=scale), JOINT, kl_weight)
    known = exact(base(scale=scale), JOINT, kl_weight)
    for fitted in (two, joint):
        torch.testing.assert_close(fitted.mean, known.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(fitted.std, known.std, rtol=1e-3, atol=0)


def test_the_order_of_rounds_does_not_matter() -> None:
    """Batches are exchangeable on a conjugate model."""
    there = learn(learn(base(), FIRST), SECOND)
    back = learn(learn(base(), SECOND), FIRST)
    torch.testing.assert_close(there.mean, back.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(there.std, back.std, rtol=1e-3, atol=0)


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_a_round_without_data_is_the_identity_at_rho_one(scale: str) -> None:
    """With no likelihood 600 steps of Adam leave every bit where it was."""
    posterior = learn(base(scale=scale), FIRST)
    after = learn(power_prior(posterior, base(scale=scale), 1.0), rows(1, [0.0] * 3, [0.0] * 3))
    assert torch.equal(after.mean, posterior.mean)
    assert torch.equal(after.rho, posterior.rho)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.7])
def test_a_round_without_data_is_the_forgetting_formula_otherwise(rho: float) -> None:
    """1/s² = ρ/s_{t−1}² + (1−ρ)/s0², and the mean weighted likewise, to the bit of the prior."""
    posterior, start = learn(base(), FIRST), base()
    prior = power_prior(posterior, start, rho)
    after = learn(prior, rows(1, [0.0] * 3, [0.0] * 3))
    assert torch.equal(after.rho, prior.rho)
    precision = rho * posterior.std**-2 + (1 - rho) * start.std**-2
    torch.testing.assert_close(after.std, precision**-0.5)
    torch.testing.assert_close(after.mean, rho * posterior.mean * posterior.std**-2 / precision)


def test_learning_a_batch_twice_shrinks_std_to_71_percent() -> None:
    """Counting twice is a statistical lie of 1/√2, which is why « already learned » is a fact."""
    batch = rows(4000, [1.0, 1.0, 1.0], [0.4, 0.0, -0.2])
    once = learn(base(), batch)
    twice = learn(once, batch)
    torch.testing.assert_close(twice.std / once.std, torch.full((3,), 0.7071), rtol=2e-3, atol=0)


def past_over_data_pull(grows: bool) -> float:
    """Learn target 0 in rounds of 10, 20 … 640 rows, then target 1 in 1,280; return the tug of war.

    The last mean is data/(past + data), so past/data = 1/m − 1.
    """
    q = base(0.5)
    for t in range(8):
        count = 10 * 2**t
        target = 1.0 if t == 7 else 0.0
        kl_weight = count / 10 if grows else 1.0
        q = learn(q, rows(count, [1.0] * 3, [target] * 3), kl_weight, steps=300)
    return float(1 / q.mean.mean() - 1)


def test_a_lambda_that_grows_with_the_rows_lets_the_past_pull_seven_times_too_hard() -> None:
    """1,270 past rows against 1,280 new ones pull 1 to 1 at constant λ and 7.4 to 1 at λ ∝ N."""
    assert past_over_data_pull(grows=False) == pytest.approx((4 + 1270) / 1280, rel=0.02)
    assert past_over_data_pull(grows=True) == pytest.approx(7.4, rel=0.02)


def test_without_forgetting_std_falls_as_one_over_root_t_and_with_it_settles() -> None:
    """1/s² grows by N·h a round at ρ = 1, and to 1/s0² + N·h/(1−ρ) at ρ < 1."""
    batch = rows(100, [1.0] * 3, [0.0] * 3)
    q = kept = base()
    for _ in range(8):
        q = learn(q, batch, steps=200)
        kept = learn(power_prior(kept, base(), 0.5), batch, steps=200)
    assert float(q.std[0]) == pytest.approx(1 / sqrt(4 + 8 * 100), rel=0.01)
    assert float(kept.std[0]) == pytest.approx(1 / sqrt(4 + 100 / 0.5), rel=0.01)


def test_mean_field_is_narrower_than_the_exact_marginal_when_weights_correlate() -> None:
    """At correlation 0.69 mean field's σ is √(1 − r²) = 72 % of the marginal: 28 % below."""
    r = 0.69
    precision = torch.linalg.inv(torch.tensor([[1.0, r], [r, 1.0]]))
    shapes = {"w": (2,)}
    flat_prior = MeanField.from_std(torch.zeros(2), torch.full((2,), 100.0), shapes)
    q = MeanField.from_std(torch.zeros(2), torch.full((2,), 0.3), shapes)
    optimiser = torch.optim.Adam([q.rho], lr=0.05)
    generator = torch.Generator().manual_seed(0)
    tail = []
    for step in range(1500):
        eps = q.noise(generator, 64, antithetic=True)
        draw_grad = q.at(eps) @ precision / len(eps)
        q.rho.grad = elbo_gradient(q, flat_prior, eps, draw_grad, kl_scale(1.0, 1)).rho
        optimiser.step()
        if step >= 500:
            tail.append(q.std.clone())
    assert float(torch.stack(tail).mean()) == pytest.approx(sqrt(1 - r**2), rel=0.02)


def test_the_anchor_and_the_gaussian_weights_count_the_same_rows() -> None:
    """After a round π = 1/s²: point and Gaussian weights remember equally hard."""
    posterior = learn(base(), FIRST, kl_weight=0.3)
    precision = online_precision(base().std ** -2, FIRST.curvature, FIRST.count, kl_weight=0.3)
    torch.testing.assert_close(posterior.std**-2, precision, rtol=2e-3, atol=0)

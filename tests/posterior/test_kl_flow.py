from __future__ import annotations

import pytest
import torch

from bhpeft.posterior import SCALES, MeanField, kl_flow, kl_gradient, time_to_arrive

SHAPES = {"w": (4,)}


def gaussian(std: float | list[float], mean: float = 0.0, scale: str = "square") -> MeanField:
    widths = torch.tensor([std] * 4 if isinstance(std, float) else std)
    return MeanField.from_std(torch.full((4,), mean), widths, SHAPES, scale)


def by_small_steps(q: MeanField, prior: MeanField, time: float, steps: int = 20_000) -> MeanField:
    """Return where plain SGD on the KL goes with a rate so small that it follows the flow."""
    mean, rho = q.mean.double(), q.rho.double()
    width = SCALES[prior.scale].std(prior.rho.double())
    for _ in range(steps):
        std = SCALES[q.scale].std(rho)
        slope = SCALES[q.scale].slope(rho)
        mean = mean - time / steps * (mean - prior.mean) / width**2
        rho = rho - time / steps * (std / width**2 - 1 / std) * slope
    return MeanField(mean.float(), rho.float(), q.shapes, q.scale)


@pytest.mark.parametrize("start", [0.002, 0.1, 0.5])
def test_blobs_flow_is_where_sgd_goes_with_ever_smaller_steps(start: float) -> None:
    """σ = G² below and above the prior; the mean falls exponentially."""
    q, prior = gaussian(start, mean=0.7), gaussian(0.2)
    expected, found = by_small_steps(q, prior, 0.03), kl_flow(q, prior, 0.03)
    torch.testing.assert_close(found.std, expected.std, rtol=2e-3, atol=0)
    torch.testing.assert_close(found.mean, expected.mean, rtol=2e-3, atol=0)


def test_the_softplus_flow_holds_for_small_sigma() -> None:
    """Its slope is taken as proportional to σ: exact in the limit, a few per cent off at 0.1."""
    q, prior = gaussian(0.02, scale="softplus"), gaussian(0.1, scale="softplus")
    expected, found = by_small_steps(q, prior, 1.0), kl_flow(q, prior, 1.0)
    torch.testing.assert_close(found.std, expected.std, rtol=0.05, atol=0)


@pytest.mark.parametrize("scale", ["square", "softplus"])
def test_a_tiny_step_of_the_flow_is_a_step_of_sgd(scale: str) -> None:
    q, prior = gaussian(0.05, mean=0.3, scale=scale), gaussian(0.2, scale=scale)
    gradient = kl_gradient(q, prior)
    moved = kl_flow(q, prior, 1e-5)
    torch.testing.assert_close(moved.rho - q.rho, -1e-5 * gradient.rho, rtol=0.05, atol=3e-7)
    torch.testing.assert_close(moved.mean - q.mean, -1e-5 * gradient.mean, rtol=0.01, atol=1e-7)


def test_a_narrow_prior_cannot_throw_it_out() -> None:
    """SGD with this rate would overshoot a prior of 0.01 by a factor of a hundred."""
    q, prior = gaussian([0.001, 0.009, 0.02, 0.5], mean=0.3), gaussian(0.01)
    found = kl_flow(q, prior, 0.02)
    torch.testing.assert_close(found.std, prior.std, rtol=0.05, atol=0)
    torch.testing.assert_close(found.mean, prior.mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", ["square", "softplus"])
def test_at_the_prior_nothing_moves_to_the_bit(scale: str) -> None:
    q = gaussian([0.013, 0.2, 0.037, 0.0021], mean=0.3, scale=scale)
    found = kl_flow(q, q, 0.02)
    assert torch.equal(found.mean, q.mean)
    assert torch.equal(found.rho, q.rho)


@pytest.mark.parametrize("scale", ["square", "softplus"])
def test_the_time_to_arrive_is_what_the_flow_takes_to_nine_tenths(scale: str) -> None:
    q, prior = gaussian(0.0025, scale=scale), gaussian(0.2, scale=scale)
    time = time_to_arrive(0.0025, 0.2, 0.2, scale)
    std = kl_flow(q, prior, time).std
    torch.testing.assert_close(std, torch.full_like(std, 0.18), rtol=1e-2, atol=0)
    assert time_to_arrive(0.19, 0.2, 0.2, scale) == 0.0

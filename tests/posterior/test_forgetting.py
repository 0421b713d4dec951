from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from bhpeft.errors import ConfigError, StateError
from bhpeft.posterior import SCALES, MeanField, clamp_std, power_prior, std_at_bounds

SHAPES = {"a": (2, 5), "b": (6,)}
SIZE = 16


def gaussian(seed: int, scale: str = "softplus") -> MeanField:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(SIZE, generator=generator)
    std = 0.02 + torch.rand(SIZE, generator=generator)
    return MeanField.from_std(mean, std, SHAPES, scale)


@pytest.mark.parametrize("scale", sorted(SCALES))
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_the_prior_is_the_geometric_mean_of_posterior_and_base(scale: str, rho: float) -> None:
    """The log density log p̃ − ρ·log q − (1−ρ)·log p0 is the same number for every w."""
    q, base = gaussian(1, scale), gaussian(2)
    prior = power_prior(q, base, rho)
    weights = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None].expand(-1, SIZE)

    def log_prob(g: MeanField) -> torch.Tensor:
        density = Normal(g.mean.double(), SCALES[g.scale].std(g.rho.double()))
        value: torch.Tensor = density.log_prob(weights)  # type: ignore[no-untyped-call]
        return value

    gap = log_prob(prior) - rho * log_prob(q) - (1 - rho) * log_prob(base)
    # The prior is stored in float32; a log density of up to 1e4 nats keeps 6 of its digits.
    spread = (gap - gap[:1]).abs().max() / log_prob(prior).abs().max()
    assert float(spread) < 1e-6
    assert prior.scale == scale


def test_rho_one_returns_the_posterior_and_rho_zero_the_base() -> None:
    """The two ends are exact to the bit."""
    q, base = gaussian(3), gaussian(4)
    assert power_prior(q, base, 1.0) is q
    assert power_prior(q, base, 0.0) is base


def test_rho_zero_across_scales_keeps_the_base_and_the_posteriors_scale() -> None:
    """A softplus base under a G² posterior is the same Gaussian, written in G."""
    base = gaussian(4)
    prior = power_prior(gaussian(3, "square"), base, 0.0)
    assert prior.scale == "square"
    torch.testing.assert_close(prior.mean, base.mean)
    torch.testing.assert_close(prior.std, base.std)


def test_more_forgetting_comes_closer_to_the_base() -> None:
    """KL(prior ‖ base) falls strictly as ρ goes from 1 to 0."""
    q, base = gaussian(5), gaussian(6)
    nats = [float(power_prior(q, base, rho).kl(base)) for rho in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert nats == sorted(nats, reverse=True)
    assert nats[-1] == 0.0


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_a_rho_outside_its_interval_is_refused(rho: float) -> None:
    """Neither a sharper posterior than the data gave nor a negative past."""
    with pytest.raises(ConfigError, match="ρ"):
        power_prior(gaussian(1), gaussian(2), rho)


def test_a_base_over_other_weights_is_refused() -> None:
    """Forgetting towards another model's prior would be silent nonsense."""
    base = gaussian(2)
    with pytest.raises(StateError, match="different weights"):
        power_prior(gaussian(1), MeanField(base.mean, base.rho, {"a": (SIZE,)}), 0.5)


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_clamping_moves_only_what_is_outside(scale: str) -> None:
    """σ below the floor rises to it, above the ceiling falls to it, all else keeps its bits."""
    q = gaussian(7, scale)
    floor, ceiling = 0.2, 0.8
    clamped = clamp_std(q, floor, ceiling)
    inside = (q.std >= floor) & (q.std <= ceiling)
    assert 0 < int(inside.sum()) < SIZE
    assert torch.equal(clamped.rho[inside], q.rho[inside])
    assert torch.equal(clamped.mean, q.mean)
    torch.testing.assert_close(clamped.std, q.std.clamp(floor, ceiling))


@pytest.mark.parametrize("scale", sorted(SCALES))
@pytest.mark.parametrize("bounds", [(0.2, 0.8), (1e-6, 1e-5)])
def test_shares_at_the_bounds_count_what_was_clamped(
    scale: str, bounds: tuple[float, float]
) -> None:
    """The shares before and after clamping are the same, for rounding must not hide a weight."""
    q = gaussian(8, scale)
    expected = (
        float((q.std <= bounds[0]).double().mean()),
        float((q.std >= bounds[1]).double().mean()),
    )
    before = std_at_bounds(q, *bounds)
    after = std_at_bounds(clamp_std(q, *bounds), *bounds)
    assert (before.floor, before.ceiling) == expected
    assert after == before


def test_bounds_may_follow_each_weights_own_base_prior() -> None:
    """A floor at half and a ceiling at twice the base's σ, weight by weight."""
    q, base = gaussian(1), gaussian(2)
    floor, ceiling = 0.5 * base.std, 2 * base.std
    clamped = clamp_std(q, floor, ceiling)
    torch.testing.assert_close(clamped.std, q.std.clamp(floor, ceiling))
    shares = std_at_bounds(clamped, floor, ceiling)
    assert shares == std_at_bounds(q, floor, ceiling)
    assert shares.floor == float((q.std <= floor).double().mean()) > 0
    assert shares.ceiling == float((q.std >= ceiling).double().mean()) > 0


def test_bounds_that_make_no_interval_are_refused() -> None:
    """A floor of 0 would allow a collapsed posterior."""
    for floor, ceiling in ((0.0, 1.0), (0.5, 0.1)):
        with pytest.raises(ConfigError, match="floor"):
            clamp_std(gaussian(1), floor, ceiling)


def test_a_point_estimate_has_no_share_at_any_bound() -> None:
    """No Gaussian weights, no division by zero."""
    empty = MeanField(torch.zeros(0), torch.zeros(0), {})
    shares = std_at_bounds(empty, 0.1, 1.0)
    assert (shares.floor, shares.ceiling) == (0.0, 0.0)
    assert float(empty.kl(empty)) == 0.0

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from bhpeft.errors import ConfigError, StateError, UnknownName
from bhpeft.posterior import SCALES, MeanField, flatten, unflatten

SHAPES = {"0.query.lora.a": (3, 4), "0.value.lora.a": (2, 4), "head.weight": (2, 2)}
SIZE = 24
BOTH_SCALES = pytest.mark.parametrize("scale", sorted(SCALES))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int, scale: str = "softplus", low: float = 0.02, high: float = 0.3) -> MeanField:
    generator = seeded(seed)
    mean = 0.3 * torch.randn(SIZE, generator=generator)
    std = low + (high - low) * torch.rand(SIZE, generator=generator)
    return MeanField.from_std(mean, std, SHAPES, scale)


def normal(q: MeanField) -> Normal:
    return Normal(q.mean.double(), SCALES[q.scale].std(q.rho.double()))


def log_density(q: MeanField, weights: Tensor) -> Tensor:
    """Return Σ_j log q(w_j) of each draw, (S,), by torch's own formula."""
    value: Tensor = normal(q).log_prob(weights)  # type: ignore[no-untyped-call]
    return value.sum(-1)


@BOTH_SCALES
def test_rho_and_std_are_each_others_inverse_over_ten_orders_of_magnitude(scale: str) -> None:
    """σ → rho → σ is the identity from 1e-7 to 1e3 (float64)."""
    std = torch.logspace(-7, 3, 41, dtype=torch.float64)
    kind = SCALES[scale]
    torch.testing.assert_close(kind.std(kind.rho(std)), std, rtol=1e-8, atol=0)


@BOTH_SCALES
def test_the_slope_is_the_derivative_of_std(scale: str) -> None:
    """slope(rho) = dσ/d rho, as autograd finds it."""
    rho = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(SCALES[scale].std(rho).sum(), rho)
    torch.testing.assert_close(SCALES[scale].slope(rho.detach()), slope)


@BOTH_SCALES
def test_kl_equals_the_closed_form_of_torch_distributions(scale: str) -> None:
    """Every term, and therefore the sum, agrees with torch's own formula to float64 rounding."""
    q, prior = gaussian(1, scale), gaussian(2)
    expected = kl_divergence(normal(q), normal(prior))
    torch.testing.assert_close(q.kl_terms(prior), expected, rtol=1e-10, atol=1e-12)
    assert q.kl(prior).dtype == torch.float64
    assert float(q.kl(prior)) == pytest.approx(float(expected.sum()), rel=1e-12)


def test_kl_lies_in_the_monte_carlo_interval() -> None:
    """E_q[log q − log p] over 40,000 draws is the KL within 4 standard errors, known to 1 %."""
    q, prior = gaussian(3, low=0.1), gaussian(4, low=0.1)
    draws = q.draw(seeded(5), 40_000).double()
    log_ratio = log_density(q, draws) - log_density(prior, draws)
    error = float(log_ratio.std()) / sqrt(len(draws))
    kl = float(q.kl(prior))
    assert error < 0.01 * kl
    assert abs(float(log_ratio.mean()) - kl) < 4 * error


def test_kl_of_a_gaussian_to_itself_is_exactly_zero_and_near_it_is_not_noise() -> None:
    """At s = s̃(1+δ) the KL is δ² to first order, even where float32 would only hold rounding."""
    wide = MeanField.from_std(torch.zeros(SIZE), torch.full((SIZE,), 0.1), SHAPES)
    near = MeanField.from_std(torch.zeros(SIZE), torch.full((SIZE,), 0.1 * (1 + 1e-4)), SHAPES)
    assert float(wide.kl(wide)) == 0.0
    assert float(near.kl(wide)) == pytest.approx(SIZE * 1e-8, rel=0.02)


def test_autograd_follows_the_kl_to_mean_and_rho() -> None:
    """dKL/dm = (m − m̃)/s̃² arrives at the leaves as float32."""
    mean = gaussian(6).mean.requires_grad_()
    rho = gaussian(6).rho.requires_grad_()
    prior = gaussian(7)
    by_mean, by_rho = torch.autograd.grad(MeanField(mean, rho, SHAPES).kl(prior), (mean, rho))
    assert by_mean.dtype == by_rho.dtype == torch.float32
    torch.testing.assert_close(by_mean, (mean.detach() - prior.mean) / prior.std**2)


def test_kl_by_block_adds_up_to_the_kl() -> None:
    """Nats by method sum to the total, and a block holds its own weights' terms only."""
    q, prior = gaussian(8), gaussian(9)
    nats = q.kl_by(prior, lambda name: name.split(".")[-2])
    assert set(nats) == {"lora", "head"}
    assert sum(nats.values()) == pytest.approx(float(q.kl(prior)), rel=1e-12)
    assert nats["head"] == pytest.approx(float(q.kl_terms(prior)[-4:].sum()), rel=1e-12)


def test_draws_have_the_mean_and_the_std_of_the_posterior() -> None:
    """Over 20,000 draws each mean lies within 5 standard errors and each σ within 5 of its own."""
    q = gaussian(10)
    draws = q.draw(seeded(11), 20_000)
    error = q.std / sqrt(len(draws))
    assert bool(((draws.mean(0) - q.mean).abs() < 5 * error).all())
    assert bool(((draws.std(0) - q.std).abs() < 5 * error / sqrt(2)).all())


def test_the_generator_alone_decides_a_draw() -> None:
    """The same seed gives the same bits, whatever the global random state is."""
    q = gaussian(12)
    first = q.draw(seeded(13), 3)
    torch.rand(7)
    assert torch.equal(first, q.draw(seeded(13), 3))
    assert not torch.equal(first, q.draw(seeded(14), 3))
    assert q.draw(seeded(13)).shape == (SIZE,)
    assert first.shape == (3, SIZE)


def test_antithetic_draws_average_to_the_mean() -> None:
    """The second half mirrors the first around the mean."""
    q = gaussian(15)
    draws = q.draw(seeded(16), 6, antithetic=True)
    torch.testing.assert_close(draws[:3] - q.mean, q.mean - draws[3:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("draws", [None, 3])
def test_antithetic_draws_that_do_not_pair_are_refused(draws: int | None) -> None:
    """One draw or an odd number has no mirror image."""
    with pytest.raises(ConfigError, match="come in pairs"):
        gaussian(0).draw(seeded(), draws, antithetic=True)


def test_flatten_and_unflatten_are_each_others_inverse_and_make_views() -> None:
    """Names come in any order, every bit comes back, and it shares memory with the vector."""
    weights = {name: torch.randn(shape, generator=seeded(17)) for name, shape in SHAPES.items()}
    flat = flatten(dict(reversed(weights.items())), SHAPES)
    back = unflatten(flat, SHAPES)
    assert all(torch.equal(back[name], weights[name]) for name in SHAPES)
    flat.zero_()
    assert all(float(weight.abs().sum()) == 0 for weight in back.values())


def test_a_leading_draw_dimension_stays_in_front() -> None:
    """(S, P) becomes (S, *shape), each draw the same as unflattened alone."""
    draws = gaussian(18).draw(seeded(19), 5)
    folded = unflatten(draws, SHAPES)
    assert folded["0.query.lora.a"].shape == (5, 3, 4)
    for s in range(5):
        alone = unflatten(draws[s], SHAPES)
        assert all(torch.equal(folded[name][s], alone[name]) for name in SHAPES)


def test_half_precision_weights_become_float32() -> None:
    """The posterior stays float32 whatever the model's dtype."""
    weights = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in SHAPES.items()}
    assert flatten(weights, SHAPES).dtype == torch.float32


@pytest.mark.parametrize(
    ("mean", "rho"),
    [
        (torch.zeros(SIZE - 1), torch.zeros(SIZE)),
        (torch.zeros(SIZE), torch.zeros(SIZE + 1)),
        (torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE)),
        (torch.zeros(SIZE), torch.zeros(SIZE, dtype=torch.bfloat16)),
        (torch.zeros(1, SIZE), torch.zeros(SIZE)),
    ],
)
def test_vectors_that_do_not_fit_the_layout_are_refused(mean: Tensor, rho: Tensor) -> None:
    """Wrong length, wrong dtype or an extra dimension says what was found and expected."""
    with pytest.raises(StateError, match=r"found .* expected torch.float32 of shape \(24,\)"):
        MeanField(mean, rho, SHAPES)


@pytest.mark.parametrize("bad", [0.0, -0.1, float("nan"), float("inf")])
def test_a_std_that_is_none_is_refused(bad: float) -> None:
    """Zero, negative or non-finite σ is no Gaussian."""
    std = torch.full((SIZE,), 0.1)
    std[3] = bad
    with pytest.raises(StateError, match="standard deviation"):
        MeanField.from_std(torch.zeros(SIZE), std, SHAPES)


def test_an_unknown_scale_names_the_near_one() -> None:
    """A typo gets a did-you-mean."""
    with pytest.raises(UnknownName, match="Did you mean 'softplus'"):
        MeanField(torch.zeros(SIZE), torch.zeros(SIZE), SHAPES, "soft_plus")


def test_a_missing_an_extra_and_a_misshapen_weight_are_named() -> None:
    """The error says which weight of the posterior does not fit."""
    weights = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for broken in (
        {name: weight for name, weight in weights.items() if name != "head.weight"},
        {**weights, "head.weight": torch.zeros(4)},
    ):
        with pytest.raises(StateError, match=r"head\.weight"):
            flatten(broken, SHAPES)
    with pytest.raises(StateError, match="stranger"):
        flatten({**weights, "stranger": torch.zeros(1)}, SHAPES)
    with pytest.raises(StateError, match="found 23 numbers"):
        unflatten(torch.zeros(23), SHAPES)


def test_posteriors_over_different_weights_are_not_compared() -> None:
    """Equal sizes are not enough: the names and their order count too."""
    q = gaussian(20)
    other = MeanField(q.mean, q.rho, dict(reversed(SHAPES.items())))
    with pytest.raises(StateError, match="different weights"):
        q.kl(other)
    assert float(q.kl(MeanField(q.mean, q.rho, dict(SHAPES)))) == 0.0

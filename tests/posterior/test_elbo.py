from __future__ import annotations

from itertools import pairwise
from typing import TypedDict

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bhpeft.errors import ConfigError, RhoTravelTooShort, StateError
from bhpeft.posterior import (
    SCALES,
    MeanField,
    anchor_penalty,
    blob_kl_weights,
    check_rho_travel,
    elbo_gradient,
    kl_scale,
    online_precision,
    optimal_std,
    rho_travel,
    warmup,
)

CLASSES, FEATURES, ROWS = 3, 4, 24
SHAPES = {"head.weight": (CLASSES, FEATURES)}
SIZE = CLASSES * FEATURES


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(seed: int, scale: str = "softplus") -> MeanField:
    generator = seeded(seed)
    mean = torch.randn(SIZE, generator=generator)
    std = 0.02 + 0.3 * torch.rand(SIZE, generator=generator)
    return MeanField.from_std(mean, std, SHAPES, scale)


def rows(seed: int) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    inputs = torch.randn(ROWS, FEATURES, generator=generator)
    return inputs, torch.randint(CLASSES, (ROWS,), generator=generator)


def mean_nll(draws: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    """Softmax regression's mean NLL over all rows of all draws."""
    weight = draws.view(-1, CLASSES, FEATURES)
    logits = torch.einsum("bf,scf->sbc", inputs, weight).flatten(0, 1)
    return F.cross_entropy(logits, labels.repeat(len(weight)))


def draw_gradient(q: MeanField, eps: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
    draws = q.at(eps).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(mean_nll(draws, inputs, labels), draws)
    return gradient


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("scale", sorted(SCALES))
@pytest.mark.parametrize("draws", [None, 1, 5])
def test_the_gradient_written_by_hand_is_autograds(scale: str, draws: int | None) -> None:
    """For both scales, one draw or many, mean and rho agree to 1e-6 of the largest entry."""
    q, prior, (inputs, labels) = gaussian(1, scale), gaussian(2), rows(3)
    eps = q.noise(seeded(4), draws)
    mean, rho = q.mean.clone().requires_grad_(), q.rho.clone().requires_grad_()
    leaf = MeanField(mean, rho, SHAPES, scale)
    loss = mean_nll(leaf.at(eps), inputs, labels) + 0.01 * leaf.kl(prior)
    by_mean, by_rho = torch.autograd.grad(loss, (mean, rho))
    gradient = elbo_gradient(q, prior, eps, draw_gradient(q, eps, inputs, labels), 0.01)
    assert distance(gradient.mean, by_mean) < 1e-6
    assert distance(gradient.rho, by_rho) < 1e-6


def test_a_negative_root_of_the_square_scale_has_the_gradient_autograd_gives() -> None:
    """σ = G² is smooth through G < 0, where BLoB's optimiser may wander."""
    prior = gaussian(2)
    flipped = MeanField(gaussian(1).mean, -gaussian(1, "square").rho, SHAPES, "square")
    rho = flipped.rho.clone().requires_grad_()
    (by_rho,) = torch.autograd.grad(MeanField(flipped.mean, rho, SHAPES, "square").kl(prior), rho)
    zero = torch.zeros(SIZE)
    assert distance(elbo_gradient(flipped, prior, zero, zero, 1.0).rho, by_rho) < 1e-6


@pytest.mark.parametrize("size", [1, 2, 6, 12])
def test_the_loss_does_not_depend_on_the_minibatch_size(size: int) -> None:
    """Averaged over an epoch, minibatches of any size give the full batch's loss and gradient."""
    q, prior, (inputs, labels) = gaussian(5), gaussian(6), rows(7)
    eps, scale = q.noise(seeded(8)), kl_scale(0.3, ROWS)

    def step(piece: slice) -> list[Tensor]:
        some = inputs[piece], labels[piece]
        gradient = elbo_gradient(q, prior, eps, draw_gradient(q, eps, *some), scale)
        loss = mean_nll(q.at(eps), *some).double() + scale * q.kl(prior)
        return [loss.detach(), gradient.mean, gradient.rho]

    whole = step(slice(None))
    pieces = [step(slice(start, start + size)) for start in range(0, ROWS, size)]
    for part, expected in enumerate(whole):
        assert distance(torch.stack([piece[part] for piece in pieces]).mean(0), expected) < 1e-6


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_the_kl_pulls_nothing_at_the_prior(scale: str) -> None:
    """At q = prior the KL's gradient is exactly 0, so Adam has no rounding noise to blow up."""
    q = gaussian(9, scale)
    zero = torch.zeros(SIZE)
    gradient = elbo_gradient(q, q, zero, zero, 1.0)
    assert torch.equal(gradient.mean, zero)
    assert torch.equal(gradient.rho, zero)


def test_a_prior_over_other_weights_is_refused() -> None:
    """A gradient against the wrong prior would be silently wrong."""
    q = gaussian(9)
    other = MeanField(q.mean, q.rho, {"head.weight": (FEATURES, CLASSES)})
    with pytest.raises(StateError, match="different weights"):
        elbo_gradient(q, other, q.mean, q.mean, 1.0)


def test_kl_scale_is_lambda_over_rows_and_refuses_no_rows() -> None:
    """λ/N counts rows; zero rows or a negative λ has no scale."""
    assert kl_scale(0.3, 600) == pytest.approx(0.0005)
    for kl_weight, count in ((1.0, 0), (-0.1, 10)):
        with pytest.raises(ConfigError, match="λ/N"):
            kl_scale(kl_weight, count)


def test_warmup_climbs_from_zero_to_one_over_its_fraction_and_stays() -> None:
    """0 at the first step, ½ half-way up, 1 from the end of the ramp; no ramp is 1 throughout."""
    ramp = [warmup(step, 100, 0.1) for step in range(100)]
    assert ramp[0] == 0.0
    assert ramp[5] == pytest.approx(0.5)
    assert ramp == sorted(ramp)
    assert set(ramp[10:]) == {1.0}
    assert warmup(0, 100, 0.0) == 1.0
    assert warmup(0, 0, 0.1) == 1.0


@pytest.mark.parametrize("minibatches", [1, 2, 7, 30])
def test_blobs_weights_double_and_sum_to_one(minibatches: int) -> None:
    """π_i = 2^i/(2^M − 1): each is twice the one before, and an epoch counts the KL once."""
    weights = blob_kl_weights(minibatches)
    assert len(weights) == minibatches
    assert sum(weights) == pytest.approx(1.0, rel=1e-12)
    assert all(b == 2 * a for a, b in pairwise(weights))
    assert weights[0] == pytest.approx(1 / (2**minibatches - 1), rel=1e-12)


def test_blobs_weights_survive_long_epochs() -> None:
    """5,000 minibatches would overflow 2^M; half the KL still falls on the last one."""
    weights = blob_kl_weights(5000)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[-1] == 0.5


def test_the_anchor_is_half_the_weighted_squared_distance() -> None:
    """½(2·1² + 4·3²) = 19, and nothing at the previous weights."""
    previous, precision = torch.tensor([1.0, -1.0]), torch.tensor([2.0, 4.0])
    assert float(anchor_penalty(torch.tensor([2.0, 2.0]), previous, precision)) == 19.0
    assert float(anchor_penalty(previous, previous, precision)) == 0.0


def test_an_anchored_second_round_ends_where_the_joint_round_does() -> None:
    """On a quadratic NLL the online Laplace is exact: the joint MAP is stationary in round two."""
    kl_weight, base, counts = 0.3, torch.tensor([4.0, 4.0], dtype=torch.float64), (40, 25)
    fisher = [torch.tensor(f, dtype=torch.float64) for f in ([1.0, 0.2], [0.5, 2.0])]
    target = [torch.tensor(t, dtype=torch.float64) for t in ([1.0, -2.0], [0.0, 3.0])]
    zero = torch.zeros(2, dtype=torch.float64)
    pull = [n * f / kl_weight for n, f in zip(counts, fisher, strict=True)]
    first = pull[0] * target[0] / (base + pull[0])
    joint = (pull[0] * target[0] + pull[1] * target[1]) / (base + pull[0] + pull[1])
    precision = online_precision(base, fisher[0], counts[0], kl_weight=kl_weight)
    point = joint.clone().requires_grad_()
    nll = 0.5 * (fisher[1] * (point - target[1]) ** 2).sum()
    loss = nll + kl_scale(kl_weight, counts[1]) * anchor_penalty(point, first, precision)
    (gradient,) = torch.autograd.grad(loss, point)
    torch.testing.assert_close(gradient, zero, rtol=0, atol=1e-12)


def test_decay_forgets_the_anchor_and_a_bad_one_is_refused() -> None:
    """π ← decay·π + N·F."""
    previous, fisher = torch.tensor([10.0]), torch.tensor([0.1])
    assert float(online_precision(previous, fisher, 50, decay=0.5)) == pytest.approx(10.0)
    with pytest.raises(ConfigError, match="decay"):
        online_precision(previous, fisher, 50, decay=1.5)
    with pytest.raises(ConfigError, match="λ"):
        online_precision(previous, fisher, 50, kl_weight=0.0)


def fitted_std(scale: str, steps: int, lr: float, start: float, n: int, h: float) -> float:
    """Fit σ by Adam on a quadratic NLL of curvature h, prior N(0, 0.1²), λ = 1; return it."""
    shapes = {"w": (1,)}
    prior = MeanField.from_std(torch.zeros(1), torch.tensor([0.1]), shapes)
    q = MeanField.from_std(torch.zeros(1), torch.tensor([start]), shapes, scale)
    optimiser = torch.optim.Adam([q.rho], lr=lr, betas=(0.9, 0.95))
    # Two draws at ε = ±1 integrate a quadratic exactly: no noise but Adam's own is left.
    eps = torch.tensor([[1.0], [-1.0]])
    for _ in range(steps):
        draw_grad = h * q.at(eps) / len(eps)
        q.rho.grad = elbo_gradient(q, prior, eps, draw_grad, kl_scale(1.0, n)).rho
        optimiser.step()
    return float(q.std)


class Facts(TypedDict):
    """What the travel check is told about a round."""

    start_std: float
    prior_std: float
    rows: int
    curvature: float
    kl_weight: float


@pytest.mark.parametrize("scale", sorted(SCALES))
@pytest.mark.parametrize("start", [0.1, 0.002])
def test_a_round_that_passes_the_travel_check_arrives_and_one_that_does_not_cannot(
    scale: str, start: float
) -> None:
    """From above or below, σ comes within 2 % of σ* on the budget asked for, not on ¼."""
    facts = Facts(start_std=start, prior_std=0.1, rows=4000, curvature=1.0, kl_weight=1.0)
    needed = rho_travel(0.0, **facts, scale=scale).needed
    optimum = optimal_std(0.1, 4000, 1.0, 1.0)
    lr = needed / 300
    assert check_rho_travel(301 * lr, **facts, scale=scale).optimum == optimum
    assert fitted_std(scale, 301, lr, start, 4000, 1.0) == pytest.approx(optimum, rel=0.02)
    with pytest.raises(RhoTravelTooShort):
        check_rho_travel(75 * lr, **facts, scale=scale)
    assert not 0.6 < fitted_std(scale, 75, lr, start, 4000, 1.0) / optimum < 1.6


def test_for_small_std_the_softplus_way_is_the_formula_of_the_paper_notes() -> None:
    """|log(σ*/σ_init)| + 1, since rho → log σ as σ → 0."""
    travel = rho_travel(1.0, start_std=1e-3, prior_std=2e-2, rows=0, curvature=1.0, kl_weight=1.0)
    expected = torch.log(torch.tensor(2e-2 / 1e-3)).item() + 1
    assert travel.needed == pytest.approx(expected, rel=0.01)
    assert travel.optimum == pytest.approx(2e-2)


def test_the_square_scale_needs_less_way_because_its_unit_is_the_root_of_std() -> None:
    """From G = √0.01 to √(0.0025/e): the distance is measured in G."""
    travel = rho_travel(
        1.0,
        start_std=0.01,
        prior_std=1.0,
        rows=160_000 - 1,
        curvature=1.0,
        kl_weight=1.0,
        scale="square",
    )
    assert travel.optimum == pytest.approx(0.0025)
    assert travel.needed == pytest.approx(0.1 - (0.0025 / 2.718281828) ** 0.5, rel=1e-6)


def test_the_travel_error_says_what_was_found_and_what_would_do() -> None:
    """Following either remedy passes the check."""
    facts = Facts(start_std=0.02, prior_std=0.1, rows=500, curvature=0.1, kl_weight=0.3)
    with pytest.raises(
        RhoTravelTooShort, match=r"Train (\d+) more steps \((\d+) in all\)"
    ) as caught:
        check_rho_travel(50 * 0.01, steps=50, **facts)
    assert "found a summed rho learning rate of 0.5" in str(caught.value)
    words = caught.value.remedy.split()
    check_rho_travel(0.01 * (50 + int(words[1])), **facts)
    with pytest.raises(RhoTravelTooShort, match="by 4"):
        check_rho_travel(0.5, **facts)
    with pytest.raises(RhoTravelTooShort, match="positive learning rate"):
        check_rho_travel(0.0, **facts)

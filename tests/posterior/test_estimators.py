from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from bhpeft.methods.sampled import sampled_linear
from bhpeft.posterior import ESTIMATORS, MeanField, nll_gradient, unflatten

# All but the one that draws nothing: it goes to the mode, on purpose.
DRAWING = [name for name in ESTIMATORS if name != "mean"]
ROWS, INPUTS, OUTPUTS, NOISES = 8, 5, 3, 1500
SHAPES = {"w": (OUTPUTS, INPUTS), "b": (OUTPUTS,)}


@pytest.fixture(scope="module")
def q() -> MeanField:
    source = Generator().manual_seed(0)
    mean = torch.randn(OUTPUTS * INPUTS + OUTPUTS, generator=source)
    return MeanField.from_std(mean, torch.full_like(mean, 0.3), SHAPES)


def gradients(q: MeanField, estimator: str) -> Tensor:
    """Return the gradient of a logistic NLL by mean and rho under many noises, (NOISES, 2P)."""
    source = Generator().manual_seed(1)
    x = torch.randn(ROWS, INPUTS, generator=source)
    labels = torch.randint(OUTPUTS, (ROWS,), generator=source)
    found = []
    for _ in range(NOISES):
        noise = ESTIMATORS[estimator](q, source, ROWS)
        draw = q.at(noise).requires_grad_()
        weights = unflatten(draw, SHAPES)
        logits = sampled_linear(x, weights["w"], weights["b"])
        torch.nn.functional.cross_entropy(logits, labels).backward()
        assert draw.grad is not None
        found.append(torch.cat(nll_gradient(q, noise, draw.grad)))
    return torch.stack(found)


@pytest.fixture(scope="module")
def found(q: MeanField) -> dict[str, Tensor]:
    return {name: gradients(q, name) for name in DRAWING}


def test_every_estimator_has_the_same_expectation(found: dict[str, Tensor]) -> None:
    """Means over many noises differ by no more than their own standard errors allow."""
    exact = found["per_example"]
    for name, sample in found.items():
        error = ((sample.var(0) + exact.var(0)) / NOISES).sqrt()
        z = (sample.mean(0) - exact.mean(0)) / error
        assert float(z.abs().max()) < 4.5, name


def test_draws_for_each_row_and_flipout_vary_less_than_one_draw_for_all(
    found: dict[str, Tensor],
) -> None:
    """A shared draw's error is common to all rows and does not average out over them."""
    variance = {name: float(sample.var(0).sum()) for name, sample in found.items()}
    assert variance["per_example"] < 0.8 * variance["shared"]
    assert variance["flipout"] < 0.8 * variance["shared"]


@pytest.mark.parametrize("name", DRAWING)
def test_every_rows_noise_is_standard_normal(q: MeanField, name: str) -> None:
    source = Generator().manual_seed(2)
    rows = torch.stack([ESTIMATORS[name](q, source, 4).reshape(-1, q.size) for _ in range(4000)])
    for moment, expected in ((rows.mean((0, 1)), 0.0), (rows.square().mean((0, 1)), 1.0)):
        torch.testing.assert_close(moment, torch.full_like(moment, expected), atol=0.1, rtol=0.0)


@pytest.mark.parametrize(("name", "shared"), [("per_example", 0.0), ("flipout", 1.0)])
def test_rows_draw_their_own_magnitudes_or_flip_those_of_one(
    q: MeanField, name: str, shared: float
) -> None:
    """Exact draws are independent between rows; flipout's differ in their signs only."""
    source = Generator().manual_seed(6)
    pairs = [ESTIMATORS[name](q, source, 2).abs() for _ in range(400)]
    one, other = torch.stack(pairs, 1).flatten(1)
    found = torch.corrcoef(torch.stack([one, other]))[0, 1]
    assert float(found) == pytest.approx(shared, abs=0.05)


def test_the_mean_draws_nothing(q: MeanField) -> None:
    """MAP is the variational mean without its noise."""
    noise = ESTIMATORS["mean"](q, Generator().manual_seed(4), ROWS)
    assert not noise.any()
    assert bool((q.at(noise) == q.mean).all())


def test_flipout_flips_one_noise_by_a_sign_for_each_row_column_and_example(q: MeanField) -> None:
    """ε ∘ (r sᵀ): the magnitudes are shared, and the signs of a matrix have rank one."""
    noise = ESTIMATORS["flipout"](q, Generator().manual_seed(3), ROWS)
    weights = unflatten(noise, SHAPES)["w"]
    assert bool((weights.abs() == weights[0].abs()).all())
    signs = (weights / weights[0]).sign()
    for one in signs:
        assert torch.linalg.matrix_rank(one) == 1
    assert len({tuple(one.flatten().tolist()) for one in signs}) > ROWS // 2


def test_a_seed_fixes_the_noise(q: MeanField) -> None:
    draw: Callable[[int], Tensor] = lambda seed: ESTIMATORS["flipout"](  # noqa: E731
        q, Generator().manual_seed(seed), ROWS
    )
    assert torch.equal(draw(4), draw(4))
    assert not torch.equal(draw(4), draw(5))

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bhpeft.learning.fidelity import LINEAR_CLASSES, measured, offered, prepared
from bhpeft.learning.linear import LINEAR_DRAWS, covariance, derivatives
from bhpeft.learning.predict import Predictor
from bhpeft.learning.predictors import Recipe, weights_of
from bhpeft.posterior import MeanField, unflatten
from tests.learning import problems
from tests.learning.test_predictors import ALL, version, wide


def moved(predictor: Predictor, index: int, by: float) -> Predictor:
    """Return the version with one Gaussian weight's mean moved by so many of its σ."""
    q = predictor.state.posterior
    mean = q.mean.clone()
    mean[index] += by * q.std[index]
    state = replace(predictor.state, posterior=MeanField(mean, q.rho, q.shapes, q.scale))
    return Predictor(predictor.model, state)


def centred(predictor: Predictor, texts: list[str]) -> torch.Tensor:
    logits = predictor.logits(texts, predictor.recipe(0))[0].double()
    return logits - logits.mean(-1, keepdim=True)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_derivatives_are_those_of_finite_differences(pooling):
    """Of every method's weights, and of each row by itself."""
    predictor, texts = wide(version(pooling=pooling), 1e-2), problems.texts(4)
    center, slopes = derivatives(predictor.model, predictor.state, predictor.encode(texts))
    torch.testing.assert_close(center.double(), centred(predictor, texts), atol=1e-5, rtol=1e-4)
    assert slopes.shape == (4, 2, predictor.state.posterior.size)
    torch.testing.assert_close(slopes.sum(1), torch.zeros_like(slopes[:, 0]))
    largest = slopes.abs().amax((0, 1)).topk(20).indices.tolist()
    for index in largest:
        up, down = (centred(moved(predictor, index, by), texts) for by in (0.5, -0.5))
        torch.testing.assert_close(slopes[..., index].double(), up - down, atol=2e-5, rtol=2e-2)


@pytest.mark.parametrize("methods", [("lora",), ALL])
def test_a_narrow_posteriors_linear_model_is_its_posterior(methods):
    """As σ goes to nought a network is linear: the covariance is that of many draws."""
    predictor, texts = wide(version(methods, predictor="linear"), 1e-3), problems.texts(6)
    q = predictor.state.posterior
    noise = q.noise(torch.Generator().manual_seed(1), 2000, antithetic=True)
    weights = weights_of(predictor.model, predictor.state, 0) | unflatten(q.at(noise), q.shapes)
    drawn = predictor.logits(texts, Recipe(weights, len(noise), 6)).double()
    drawn = drawn - drawn.mean(-1, keepdim=True)
    deviations = drawn - drawn.mean(0)
    sampled = torch.einsum("sni,snj->nij", deviations, deviations) / len(drawn)
    linear = covariance(predictor.model, predictor.state, predictor.encode(texts)).double()
    torch.testing.assert_close(linear, sampled, rtol=0.15, atol=1e-12)


def test_draws_have_the_covariance_and_the_scalars():
    """Their mean is the shrunk logits of the mean weights, exactly: they come in pairs."""
    scalars = {"shrink": 0.6, "variance": 0.0, "spread": 4.0}
    predictor = wide(version(predictor="linear", scalars=scalars), 0.1)
    texts = problems.texts(7)
    drawn = predictor.logits(texts, predictor.recipe()).double()
    assert drawn.shape == (LINEAR_DRAWS, 7, 2)
    torch.testing.assert_close(drawn.mean(0), 0.6 * centred(predictor, texts), atol=1e-5, rtol=0)
    plain = wide(version(predictor="linear"), 0.1)
    usual = plain.logits(texts, plain.recipe()).double()
    torch.testing.assert_close(
        drawn - drawn.mean(0), 2 * (usual - usual.mean(0)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_ranks_rows_better_than_ten_draws_do(seed):
    """All layers take part, and no draw adds its noise."""
    predictor = prepared(wide(version(), 0.03), problems.texts(60, seed=seed))
    found = measured(predictor, ["linear"], problems.texts(30, seed=seed + 10), 100)["linear"]
    assert found.rank_gap > 0.0
    assert found.kl_ratio < 1.0


def test_it_is_offered_where_a_pass_back_for_each_class_may_be_worth_it():
    predictor = version()
    assert "linear" in offered(predictor)
    predictor.model.labels = LINEAR_CLASSES + 1
    assert "linear" not in offered(predictor)

from __future__ import annotations

import pytest
import torch

from bhpeft.posterior.distilled import Scalars, calibrated, distil, tilted
from bhpeft.posterior.predictive import mean_probability, mutual_information
from tests import tiny


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=tiny.generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_scalars_of_a_gaussian_are_found(classes):
    """Logits at 0.7 of the mean's, with variance 0.3 in every class, give those numbers back."""
    at_mean = normal(4000, classes)
    half = 0.3**0.5 * normal(4, 4000, classes, seed=1)
    drawn = 0.7 * at_mean + torch.cat([half, -half])
    found = distil(at_mean, drawn + normal(8, 4000, 1, seed=2))  # what a softmax does not see
    assert found.shrink == pytest.approx(0.7, abs=0.01)
    assert found.variance == pytest.approx(0.3, rel=0.05)


def test_no_spread_and_no_shrinking_is_the_softmax():
    logits = normal(5, 3)
    torch.testing.assert_close(calibrated(logits, Scalars()), logits.softmax(-1))
    torch.testing.assert_close(calibrated(logits, Scalars.of({})), logits.softmax(-1))


def test_the_mended_mean_is_the_gaussians_expectation():
    """Against a million draws: sixty-four fixed pairs leave less than a hundredth."""
    logits, scalars = normal(4, 3), Scalars(shrink=0.8, variance=1.0)
    noise = normal(1_000_000, 1, 3, seed=9)
    for row in range(4):
        exact = (0.8 * logits[row] + noise[:, 0]).softmax(-1).mean(0)
        assert (calibrated(logits, scalars)[row] - exact).abs().max() < 0.01


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_tilted_draws_average_to_the_target_and_keep_their_differences(classes, spread):
    """The mean is what was asked for; two draws' log odds differ as before."""
    center, logits = normal(40, classes), spread * normal(24, 40, classes, seed=3)
    target = (0.5 * center).softmax(-1)
    found = tilted(center + logits, target)
    torch.testing.assert_close(mean_probability(found.exp()), target, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        _odds(found[0]) - _odds(found[1]), _odds(logits[0]) - _odds(logits[1])
    )


def test_draws_that_already_have_the_mean_stay():
    logits = normal(8, 10, 3)
    probs = logits.softmax(-1)
    found = tilted(logits, probs.mean(0)).exp()
    torch.testing.assert_close(found, probs)
    torch.testing.assert_close(mutual_information(found), mutual_information(probs))


def test_no_rows_are_no_trouble():
    assert tilted(torch.empty(8, 0, 3), torch.empty(0, 3)).shape == (8, 0, 3)


def _odds(logits):
    return logits - logits[..., :1]

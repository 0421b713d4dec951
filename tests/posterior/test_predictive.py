from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from bhpeft.posterior import (
    expected_entropy,
    mean_log_probability,
    mean_probability,
    mutual_information,
    nll,
    nll_from_logits,
    predictive_entropy,
)


def some_logits(draws: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(draws, 50, 4, generator=generator)


def some_labels() -> Tensor:
    return torch.randint(4, (50,), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("seed", range(5))
def test_total_uncertainty_is_aleatoric_plus_epistemic(seed: int) -> None:
    """H[p] = E H[p_s] + MI with 0 ≤ MI ≤ min(log S, log C)."""
    probs = some_logits(6, seed).softmax(-1)
    mi = mutual_information(probs)
    torch.testing.assert_close(predictive_entropy(probs), expected_entropy(probs) + mi)
    assert float(mi.min()) > 0
    assert float(mi.max()) <= log(4)


def test_one_draw_and_equal_draws_know_nothing_of_disagreement() -> None:
    """MI is exactly 0 for S = 1, and never negative for S equal draws."""
    probs = some_logits(1).softmax(-1)
    assert torch.equal(mutual_information(probs), torch.zeros(50, dtype=torch.float64))
    equal = mutual_information(probs.expand(7, -1, -1))
    assert float(equal.min()) >= 0
    assert float(equal.max()) < 1e-12


def test_draws_that_contradict_each_other_are_pure_epistemic_uncertainty() -> None:
    """Two certain, opposite draws: H[p] = MI = log 2 and no noise."""
    probs = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert float(mutual_information(probs)) == pytest.approx(log(2), rel=1e-15)
    assert float(expected_entropy(probs)) == 0.0


def test_a_uniform_prediction_has_the_entropy_of_its_classes() -> None:
    """H = log C, in nats, all of it aleatoric."""
    probs = torch.full((3, 2, 5), 0.2, dtype=torch.float64)
    torch.testing.assert_close(predictive_entropy(probs), torch.full((2,), log(5)).double())
    assert float(mutual_information(probs).max()) < 1e-12


def test_the_nll_is_that_of_the_averaged_probability() -> None:
    """−log mean p, not the mean of −log p: never larger, by Jensen."""
    logits, labels = some_logits(5), some_labels()
    probs = logits.double().softmax(-1)
    row = torch.arange(50)
    expected = -torch.log(mean_probability(probs)[row, labels])
    torch.testing.assert_close(nll(probs, labels), expected)
    assert bool((nll(probs, labels) <= -torch.log(probs[:, row, labels]).mean(0)).all())


def test_both_ways_to_the_nll_agree_and_logits_may_be_normalised() -> None:
    """From probabilities, logits or log-probabilities: the same numbers in float64."""
    logits, labels = some_logits(5).double(), some_labels()
    expected = nll(logits.softmax(-1), labels)
    torch.testing.assert_close(nll_from_logits(logits, labels), expected)
    torch.testing.assert_close(nll_from_logits(logits.log_softmax(-1), labels), expected)
    torch.testing.assert_close(
        mean_log_probability(logits).exp(), mean_probability(logits.softmax(-1))
    )


def test_extreme_confidence_stays_finite() -> None:
    """A probability of 1e-30 costs 69.08 nats, a logit gap of 2,000 costs 2,000."""
    tiny = torch.tensor([[[1e-30, 1.0]]], dtype=torch.float64)
    label = torch.tensor([0])
    assert float(nll(tiny, label)) == pytest.approx(30 * log(10), rel=1e-12)
    assert float(nll_from_logits(tiny.log(), label)) == pytest.approx(30 * log(10), rel=1e-12)
    far = torch.tensor([[[0.0, 2000.0]], [[0.0, 2000.0]]])
    assert float(nll_from_logits(far, label)) == pytest.approx(2000.0)
    assert float(nll(far.softmax(-1), label)) == float("inf")


def test_everything_is_float64_whatever_comes_in() -> None:
    """Half-precision logits are averaged in float64."""
    logits, labels = some_logits(3).to(torch.bfloat16), some_labels()
    for value in (nll_from_logits(logits, labels), mutual_information(logits.softmax(-1))):
        assert value.dtype == torch.float64
        assert value.shape == (50,)


def test_a_missing_draw_dimension_is_refused() -> None:
    """(N, C) would be averaged over rows without a word."""
    for shape in ((50, 4), (0, 50, 4)):
        with pytest.raises(ValueError, match="draws, rows, classes"):
            mean_probability(torch.ones(shape))

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from bhpeft.tasks import metrics
from tests.judgement.conftest import read, task


def test_nll_brier_and_accuracy_agree_with_scikit_learn(rng: np.random.Generator) -> None:
    """On two classes scikit-learn's log loss is our NLL and its Brier score half of ours."""
    signal, labels = task(rng, 400)
    mean = read(signal, labels).mean
    assert metrics.nll(mean, labels) == pytest.approx(log_loss(labels, mean), rel=1e-12)
    half = brier_score_loss(labels, mean[:, 1])
    assert metrics.brier(mean, labels) == pytest.approx(2 * half, rel=1e-12)
    assert metrics.accuracy(mean, labels) == (mean.argmax(1) == labels).mean()


def test_an_impossible_label_costs_much_but_not_infinity() -> None:
    """A probability of exactly zero must leave the mean of the other rows readable."""
    mean = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert 300 < metrics.nll(mean, np.array([1, 0])) < 400


def test_ece_agrees_with_its_definition_and_with_torchmetrics(rng: np.random.Generator) -> None:
    """Σ_b (n_b/N) |accuracy_b − confidence_b| written out is what both counters return."""
    mean = rng.dirichlet([0.5, 0.5, 0.5, 0.5], size=700)
    labels = rng.integers(4, size=700)
    confidence, right = mean.max(1), mean.argmax(1) == labels
    expected = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & (confidence < (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics.ece(mean, labels) == pytest.approx(expected, rel=1e-9)
    theirs = multiclass_calibration_error(
        torch.from_numpy(mean), torch.from_numpy(labels), num_classes=4, n_bins=15, norm="l1"
    )
    assert metrics.ece(mean, labels) == pytest.approx(float(theirs), abs=1e-6)  # it is float32


def test_probabilities_an_ulp_above_one_are_not_taken_for_logits(rng: np.random.Generator) -> None:
    """An average of probabilities may be 1.0000000000000002; torchmetrics then takes a softmax."""
    signal, labels = task(rng, 200)
    mean = read(signal, labels).mean
    before = metrics.ece(mean, labels)
    touched = np.concatenate([mean, [[1.0 + 2e-16, 0.0]]])
    after = metrics.ece(touched, np.append(labels, 0))
    assert after == pytest.approx(before * 200 / 201, abs=1e-9)


def test_certain_rows_share_the_last_bin() -> None:
    """A confidence of exactly one belongs to the fifteenth bin and not to a sixteenth."""
    mean = np.array([[1.0, 0.0]] * 2 + [[0.95, 0.05]] * 2)
    labels = np.array([0, 1, 0, 0])
    assert metrics.ece(mean, labels) == pytest.approx(0.975 - 0.75)
    assert [bar.rows for bar in metrics.reliability_table(mean, labels)] == [4]


def test_a_calibrated_model_falls_inside_its_null_19_times_in_20(rng: np.random.Generator) -> None:
    """The null's range covers the ECE of labels that really come from the probabilities."""
    inside = 0
    for _ in range(60):
        signal, labels = task(rng, 300)
        mean = read(signal, labels).mean
        low, high = metrics.ece_null(mean, rng=rng, draws=200)
        inside += low <= metrics.ece(mean, labels) <= high
    assert 51 <= inside <= 60


def test_a_calibrated_model_on_500_rows_shows_percents_of_error(rng: np.random.Generator) -> None:
    """The trap behind the null: 2–5 % of ECE is what chance gives, so no cap can be that small."""
    low, high = metrics.ece_null(read(*task(rng, 500)).mean, rng=rng)
    assert 0.01 < low < 0.03
    assert 0.04 < high < 0.08


def test_an_overconfident_model_leaves_its_null(rng: np.random.Generator) -> None:
    """The null has power: threefold certainty is far outside."""
    signal, labels = task(rng, 500)
    mean = read(signal, labels, trust=3.0).mean
    assert metrics.ece(mean, labels) > 1.5 * metrics.ece_null(mean, rng=rng)[1]


def test_refusing_uncertain_rows_raises_accuracy(rng: np.random.Generator) -> None:
    """The curve starts at the accuracy itself and rises where uncertainty means something."""
    scored = read(*task(rng, 2000))
    curve = metrics.rejection_curve(scored.mean, scored.labels, scored.entropy)
    assert curve[0][0] == 0.0
    assert curve[0][1] == pytest.approx(metrics.accuracy(scored.mean, scored.labels))
    assert curve[-1][1] > curve[0][1] + 0.05
    at_20 = metrics.accuracy_at_rejection(scored.mean, scored.labels, scored.entropy)
    assert dict(curve)[0.2] == pytest.approx(at_20)


def test_keeping_80_percent_means_the_80_percent_of_lowest_entropy() -> None:
    """Ten rows, the two most uncertain wrong: refusing 20 % leaves none wrong."""
    top = np.array([0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.6, 0.55])
    mean, labels = np.stack([top, 1 - top], 1), np.array([0] * 8 + [1] * 2)
    entropy = -(mean * np.log(mean)).sum(1)
    assert metrics.accuracy_at_rejection(mean, labels, entropy, 0.2) == 1.0
    assert metrics.accuracy_at_rejection(mean, labels, entropy, 0.1) == pytest.approx(8 / 9)


def test_rows_of_equal_entropy_are_refused_by_no_accident_of_order() -> None:
    """A constant predictor has accuracy 0.5 at every rejection, in whatever order rows come."""
    mean, entropy = np.full((10, 2), 0.5), np.full(10, np.log(2))
    for labels in (np.array([0] * 5 + [1] * 5), np.array([1] * 5 + [0] * 5)):
        assert metrics.accuracy_at_rejection(mean, labels, entropy) == pytest.approx(0.5)

from __future__ import annotations

import numpy as np
import pytest

from bhpeft.judgement.bootstrap import paired_bootstrap, paired_intervals, resample_counts
from bhpeft.tasks.metrics import accuracy, accuracy_at_rejection, brier, ece, nll
from tests.judgement.conftest import read, task


def test_the_bootstrap_knows_the_standard_error_of_a_mean(rng: np.random.Generator) -> None:
    """For a mean its sd is σ/√N and its bounds are the normal ones."""
    differences = rng.normal(0.3, 2.0, size=800)
    found = paired_bootstrap(differences, rng=rng)
    error = differences.std() / np.sqrt(800)
    assert found.mean == differences.mean()
    assert found.sd == pytest.approx(error, rel=0.06)
    assert found.upper == pytest.approx(found.mean + 1.645 * error, abs=0.2 * error)
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.25 * error)


def test_every_difference_is_that_of_the_published_metrics(rng: np.random.Generator) -> None:
    """The bootstrap's sums over rows are the same figures the report prints."""
    signal, labels = task(rng, 300)
    left, right = read(signal, labels), read(signal, labels, trust=4.0)
    found = paired_intervals(left, right, rng=rng, resamples=50)
    metrics = {"nll": nll, "accuracy": accuracy, "brier": brier, "ece": ece}
    for name, metric in metrics.items():
        expected = metric(left.mean, labels) - metric(right.mean, labels)
        assert found[name].mean == pytest.approx(expected, abs=1e-9)
    kept = [accuracy_at_rejection(s.mean, labels, s.entropy) for s in (left, right)]
    assert found["accuracy_at_rejection"].mean == pytest.approx(kept[0] - kept[1], abs=1e-12)


def test_pairing_removes_what_both_models_share(rng: np.random.Generator) -> None:
    """Against itself a model differs by exactly nothing, however noisy the rows are."""
    scored = read(*task(rng, 100))
    for interval in paired_intervals(scored, scored, rng=rng, resamples=100).values():
        assert (interval.mean, interval.sd) == (0.0, 0.0)


def test_resamples_are_whole_and_come_in_blocks(rng: np.random.Generator) -> None:
    """Every line draws N rows in all, and the blocks add up to the resamples asked for."""
    blocks = list(resample_counts(1000, 600, rng))
    assert len(blocks) > 1
    counts = np.concatenate(blocks)
    assert counts.shape == (600, 1000)
    assert (counts.sum(1) == 1000).all()


def test_the_same_generator_gives_the_same_interval() -> None:
    """Bounds are reproducible from a seed; nothing global is drawn from."""
    values = np.linspace(-1, 1, 60)
    first, second = (
        paired_bootstrap(values, rng=np.random.default_rng(3), resamples=200) for _ in range(2)
    )
    assert first == second

"""Say how sure a difference between candidate and champion is: the paired bootstrap.

Rows are drawn with replacement, the same rows for both models, so what is common to both (hard
rows, noisy labels) cancels. Every figure of a comparison uses the same resamples, which makes
their intervals agree with one another. Memory stays bounded: resamples are made in blocks.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 (percentile interval).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bhpeft.judgement.metrics import (
    BINS,
    bin_of,
    brier_rows,
    by_entropy,
    correct_rows,
    kept_accuracy,
    nll_rows,
)
from bhpeft.judgement.scored import Scored

RESAMPLES = 2000
REJECTED = 0.2
# Resamples × rows held at once: 250,000 float32 are 1 MB, which stays in the cache.
_CELLS = 250_000


@dataclass(frozen=True)
class Interval:
    """A difference with its bootstrap bounds.

    Attributes:
        mean: the difference on the rows themselves.
        low, high: 2.5 % and 97.5 % of the resamples.
        upper: 95 % of the resamples, the one-sided bound a non-inferiority gate reads.
        sd: standard deviation over the resamples.
    """

    mean: float
    low: float
    high: float
    upper: float
    sd: float


def paired_bootstrap(
    differences: np.ndarray, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean of paired differences (N,) with its bounds."""
    means = np.concatenate(
        [counts @ differences for counts in resample_counts(len(differences), resamples, rng)]
    )
    return _interval(float(differences.mean()), means / len(differences))


def paired_intervals(
    candidate: Scored,
    reference: Scored,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
) -> dict[str, Interval]:
    """Return candidate − reference of every metric on the same rows.

    Keys: nll, accuracy, brier, ece and accuracy_at_rejection (20 % refused by entropy).
    """
    left, right = _Statistics(candidate), _Statistics(reference)
    observed = left(np.ones((1, candidate.rows))) - right(np.ones((1, candidate.rows)))
    resampled = np.concatenate(
        [left(counts) - right(counts) for counts in resample_counts(candidate.rows, resamples, rng)]
    )
    return {
        name: _interval(float(observed[0, k]), resampled[:, k])
        for k, name in enumerate(_Statistics.names)
    }


def resample_counts(rows: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks (r, N) of how often each row was drawn, `resamples` lines in all."""
    block = max(1, min(resamples, _CELLS // rows))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(rows, size=(size, rows)) + rows * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * rows)
        yield counts.reshape(size, rows).astype(np.float32)


class _Statistics:
    """Turn resample counts (R, N) into the five metrics (R, 5) of one model."""

    names = ("nll", "accuracy", "brier", "ece", "accuracy_at_rejection")

    def __init__(self, scored: Scored):
        mean, labels = scored.mean, scored.labels
        confidence, right = mean.max(1), correct_rows(mean, labels)
        residual = (right - confidence)[:, None] * np.eye(BINS)[bin_of(confidence)]
        self.sums = np.column_stack(
            [nll_rows(mean, labels), right, brier_rows(mean, labels), residual]
        )
        self.order, self.right = by_entropy(scored.entropy, right)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        # One product for all sums over rows, in the counts' own precision: float64 for the value
        # itself, float32 (1e-6 of it) for the two thousand resamples that only say how it varies.
        sums = counts @ self.sums.astype(counts.dtype) / counts.shape[1]
        right = self.right.astype(counts.dtype)
        kept = kept_accuracy(counts.take(self.order, 1), right, REJECTED)
        return np.column_stack([sums[:, :3], np.abs(sums[:, 3:]).sum(1), kept])


def _interval(mean: float, resampled: np.ndarray) -> Interval:
    low, upper, high = np.quantile(resampled, [0.025, 0.95, 0.975])
    return Interval(mean, float(low), float(high), float(upper), float(resampled.std()))

"""Put intervals around figures: over seeds by Student's t, over rows by the bootstrap.

Differences and ratios are paired: both sides of one have seen the same seed, or the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import TypeVar

import numpy as np

from bhpeft.judgement.bootstrap import resample_counts
from bhpeft.tasks.metrics import BINS, bin_of

RESAMPLES = 2000

T = TypeVar("T")

# Of counts (R, N), how often each row was drawn, to values (R,).
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; the interval of a single seed is all numbers."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """Say whether there is an interval at all."""
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    @property
    def spread(self) -> str:
        """Return the interval in words."""
        if not self.known:
            return "one seed"
        return f"{self.low:.3g} to {self.high:.3g}"


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of one value a seed, by Student's t."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, -np.inf, np.inf)
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / sqrt(len(values)))
    return Estimate(mean, mean - half, mean + half)


def ratio_over_seeds(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Return the geometric mean of paired ratios, by Student's t on their logarithms."""
    logs = [log(a / b) for a, b in zip(above, below, strict=True)]
    found = over_seeds(logs)
    return Estimate(*(float(np.exp(part)) for part in (found.value, found.low, found.high)))


def difference_over_seeds(left: Sequence[float], right: Sequence[float]) -> Estimate:
    """Return the mean of paired differences left − right."""
    return over_seeds([a - b for a, b in zip(left, right, strict=True)])


def over_rounds(
    ways: Mapping[str, Mapping[int, T]], figures: Callable[[T], Sequence[float]]
) -> dict[str, list[list[float]]]:
    """Return each way's curve, the mean over its seeds, as points (round from 1, figure).

    Args:
        ways: by seed, what was found.
        figures: the figure after each round of what one seed found.
    """
    means = {
        way: np.mean([figures(one) for one in seen.values()], axis=0) for way, seen in ways.items()
    }
    return {
        way: [[at, round(float(value), 4)] for at, value in enumerate(mean, 1)]
        for way, mean in means.items()
    }


def over_rows(statistic: Statistic, rows: int, seed: int = 0) -> Estimate:
    """Return a statistic with its percentile interval under resampling of rows.

    Args:
        statistic: of counts (R, N), how often each row was drawn, to values (R,).
        rows: N.
        seed: of the resamples.
    """
    return _percentile(_whole(statistic, rows), _resampled(statistic, rows, seed))


def quotient_over_rows(above: tuple[Statistic, int], below: tuple[Statistic, int]) -> Estimate:
    """Return the ratio of two positive statistics of other rows, each a statistic and its N.

    Both are resampled, each by random numbers of its own.
    """
    sides = [_resampled(*side, seed) for seed, side in enumerate((above, below))]
    return _percentile(_whole(*above) / _whole(*below), sides[0] / sides[1])


def _whole(statistic: Statistic, rows: int) -> float:
    return float(statistic(np.ones((1, rows)))[0])


def _resampled(statistic: Statistic, rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blocks = [statistic(counts) for counts in resample_counts(rows, RESAMPLES, rng)]
    return np.concatenate(blocks)


def _percentile(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def ece_of(counts: np.ndarray, right: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return the ECE (R,) of weighted rows: counts (R, N), right and confidence (N,)."""
    residual = (right - confidence)[:, None] * np.eye(BINS)[bin_of(confidence)]
    return np.asarray(np.abs(counts @ residual).sum(1) / counts.sum(1))


def auroc(outside: Sequence[float], inside: Sequence[float]) -> float:
    """Return how often a row outside scores above one inside, ties by half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([outside, inside]))[: len(outside)]
    count = len(outside) * (len(outside) + 1) / 2
    return float((ranks.sum() - count) / (len(outside) * len(inside)))

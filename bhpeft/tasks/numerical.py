"""Judge draws of a Gaussian for each row: a rating, a price, any number.

    p(y|x) = 1/S Σ_s N(y; m_s, σ_s²)
    total variance = 1/S Σ_s σ_s²   (aleatoric: the answers are noisy)
                   + Var_s(m_s)     (epistemic: the draws disagree)

Everything is in the answers' own units and float64. Calibration is judged by the probability
integral transform: were the model calibrated, P(Y ≤ y) would be uniform over rows, so the share of
rows below each level would be the level.

Sources: the decomposition, Depeweg et al. 2018 (arXiv 1710.07283) eq. 9; calibration of quantiles,
Kuleshov et al. 2018 (arXiv 1807.00263) §3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log, pi
from typing import Any, ClassVar

import numpy as np

from bhpeft.tasks.metrics import by_entropy, kept_accuracy, kept_curve
from bhpeft.tasks.scored import REJECTED, Figures, Headline, ReliabilityBin

_NAN = float("nan")

# The interval that is reported: its ends are the 5 % and 95 % quantiles of the mixture.
INTERVAL = 0.9
LEVELS = np.linspace(0.05, 0.95, 19)
# Halvings of a bracket until its ends are neighbours in float64.
_HALVINGS = 60

FIGURES = Figures(
    headline=Headline("rmse", "RMSE", higher=False, relative=True),
    plain=(
        *("rmse", "mae", "r2", "nll", "coverage", "interval_width", "calibration_error"),
        *("rmse_at_rejection", "aleatoric_std", "epistemic_std"),
    ),
    calibration=("calibration_error", "calibration error"),
    rejected="rmse_at_rejection",
    said="level of the quantile",
    happened="share of answers below it",
    answer="numerical",
    watched={"calibration_error": "Calibration error", "rmse": "RMSE", "nll": "NLL (nats)"},
)


@dataclass(frozen=True)
class NumberQuality:
    """One model on one set of rows; every figure is NaN where it has no rows or no numbers.

    Attributes:
        rmse, mae: of the predictive mean, in the answers' units.
        r2: share of the answers' variance explained.
        nll: of the mixture over draws, in nats a row.
        coverage, interval_width: of the 90 % intervals: share of answers inside, and mean width.
        calibration_error: mean distance of the share of answers below a quantile from its level.
        calibration_error_null_low, calibration_error_null_high: its 95 % range were the model
            perfectly calibrated.
        rmse_at_rejection: RMSE when the 20 % of largest predictive variance are refused.
        aleatoric_std, epistemic_std: root of the mean over rows of either part of the variance.
        reliability: share of answers below the quantiles, by level.
        rejection: (share refused, RMSE of the rest).
    """

    figures: ClassVar[Figures] = FIGURES

    rmse: float = _NAN
    mae: float = _NAN
    r2: float = _NAN
    nll: float = _NAN
    coverage: float = _NAN
    interval_width: float = _NAN
    calibration_error: float = _NAN
    calibration_error_null_low: float = _NAN
    calibration_error_null_high: float = _NAN
    rmse_at_rejection: float = _NAN
    aleatoric_std: float = _NAN
    epistemic_std: float = _NAN
    reliability: tuple[ReliabilityBin, ...] = ()
    rejection: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Numerical:
    """One model's Gaussians on rows with known answers.

    Attributes:
        gaussians: (S, N, 2) float64: each draw's mean and standard deviation of each row.
        answers: (N,) float64.
    """

    figures: ClassVar[Figures] = FIGURES

    gaussians: np.ndarray
    answers: np.ndarray

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit.

        Raises:
            ValueError: the arrays are not (S, N, 2) and (N,).
        """
        shape = self.gaussians.shape
        if len(shape) != 3 or shape[0] == 0 or shape[2] != 2:
            raise ValueError(f"Gaussians are {shape}; expected (draws, rows, 2).")
        if self.answers.shape != shape[1:2]:
            raise ValueError(f"There are {self.answers.shape} answers for {shape[1]} rows.")

    @property
    def rows(self) -> int:
        """Return N."""
        return len(self.answers)

    @property
    def finite(self) -> bool:
        """Say whether every mean is a number and every standard deviation a positive one."""
        return bool(np.isfinite(self.gaussians).all() and (self.gaussians[..., 1] > 0).all())

    @cached_property
    def mean(self) -> np.ndarray:
        """Return the predictive mean (N,)."""
        return np.asarray(self.gaussians[..., 0].mean(0))

    @cached_property
    def aleatoric(self) -> np.ndarray:
        """Return the variance (N,) that no more training would take away."""
        return np.asarray((self.gaussians[..., 1] ** 2).mean(0))

    @cached_property
    def epistemic(self) -> np.ndarray:
        """Return the variance (N,) of the draws' means: what is not known of the weights."""
        return np.asarray(self.gaussians[..., 0].var(0))

    @property
    def uncertainty(self) -> np.ndarray:
        """Return the predictive standard deviation (N,)."""
        return np.asarray(np.sqrt(self.aleatoric + self.epistemic))

    @cached_property
    def nll_rows(self) -> np.ndarray:
        """Return −log of the mixture's density at each answer (N,), in nats."""
        mean, std = self.gaussians[..., 0], self.gaussians[..., 1]
        each = -0.5 * ((self.answers - mean) / std) ** 2 - np.log(std) - 0.5 * log(2 * pi)
        return np.asarray(-np.logaddexp.reduce(each, axis=0) + log(len(each)))

    @cached_property
    def below(self) -> np.ndarray:
        """Return P(Y ≤ y) of each answer (N,): uniform over rows if the model is calibrated."""
        return self._share_below(self.answers)

    @cached_property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the ends (N,) of the central 90 % of each mixture."""
        tail = (1 - INTERVAL) / 2
        return self.quantile(tail), self.quantile(1 - tail)

    def quantile(self, level: float) -> np.ndarray:
        """Return the mixture's quantile (N,), by halving a bracket that holds every draw's."""
        from scipy.special import ndtri

        ends = self.gaussians[..., 0] + float(ndtri(level)) * self.gaussians[..., 1]
        low, high = ends.min(0), ends.max(0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            under = self._share_below(middle) < level
            low, high = np.where(under, middle, low), np.where(under, high, middle)
        return np.asarray((low + high) / 2)

    @property
    def squared_error(self) -> np.ndarray:
        """Return the squared error of the predictive mean (N,)."""
        return np.asarray((self.answers - self.mean) ** 2)

    @property
    def signals(self) -> Mapping[str, np.ndarray]:
        """Return NLL, squared error and epistemic variance of each row."""
        return {
            "nll": self.nll_rows,
            "squared_error": self.squared_error,
            "epistemic_variance": self.epistemic,
        }

    @property
    def weights(self) -> np.ndarray:
        """Return ones: a row is a row."""
        return np.ones(self.rows)

    def take(self, rows: np.ndarray) -> Numerical:
        """Return the same model on a subset of the rows, given as a mask or as positions."""
        return Numerical(self.gaussians[:, rows], self.answers[rows])

    def same_rows(self, other: Numerical) -> bool:
        """Say whether the other was scored on rows with the same answers."""
        return np.array_equal(self.answers, other.answers)

    def baseline(self, known: np.ndarray | None) -> Numerical:
        """Return the Gaussian of the training answers, whatever the row."""
        if known is None:
            known = np.array([self.answers.mean(), self.answers.std()]) if self.rows else _UNIT
        return Numerical(np.broadcast_to(known, (1, self.rows, 2)).copy(), self.answers)

    def seen(self, labels: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what a drift table shows of the predictions."""
        return {"predictions": {"prediction": self.mean, "uncertainty": self.uncertainty}}

    def quality(self, rng: np.random.Generator) -> NumberQuality:
        """Return errors, NLL, coverage, calibration and what is left when doubtful rows go."""
        if not self.rows or not self.finite:
            return NumberQuality()
        squared, (low, high) = self.squared_error, self.interval
        spread = ((self.answers - self.answers.mean()) ** 2).sum()
        null = calibration_null(self.rows, rng)
        kept = kept_curve(self.uncertainty, squared)
        return NumberQuality(
            rmse=float(np.sqrt(squared.mean())),
            mae=float(np.abs(self.answers - self.mean).mean()),
            r2=float(1 - squared.sum() / spread) if spread > 0 else _NAN,
            nll=float(self.nll_rows.mean()),
            coverage=float(((low <= self.answers) & (self.answers <= high)).mean()),
            interval_width=float((high - low).mean()),
            calibration_error=float(np.abs(self.residuals.mean(0)).mean()),
            calibration_error_null_low=null[0],
            calibration_error_null_high=null[1],
            rmse_at_rejection=float(self.statistics()(np.ones((1, self.rows)))[0, -1]),
            aleatoric_std=float(np.sqrt(self.aleatoric.mean())),
            epistemic_std=float(np.sqrt(self.epistemic.mean())),
            reliability=self._reliability(),
            rejection=tuple((share, float(np.sqrt(left))) for share, left in kept),
        )

    @property
    def residuals(self) -> np.ndarray:
        """Return whether each answer is below each level's quantile, minus the level: (N, 19)."""
        return np.asarray((self.below[:, None] <= LEVELS) - LEVELS)

    def statistics(self) -> NumberStatistics:
        """Return the metrics whose differences are reported."""
        return NumberStatistics(self)

    def _share_below(self, values: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr

        mean, std = self.gaussians[..., 0], self.gaussians[..., 1]
        return np.asarray(ndtr((values - mean) / std).mean(0))

    def _reliability(self) -> tuple[ReliabilityBin, ...]:
        half = (LEVELS[1] - LEVELS[0]) / 2
        happened = (self.below[:, None] <= LEVELS).mean(0)
        return tuple(
            ReliabilityBin(float(level - half), float(level + half), self.rows, float(level), share)
            for level, share in zip(LEVELS, happened.tolist(), strict=True)
        )


_UNIT = np.array([0.0, 1.0])


class NumberStatistics:
    """Turn resample counts (R, N) into the metrics (R, 5) of one model."""

    names = ("nll", "rmse", "mae", "calibration_error", "rmse_at_rejection")

    def __init__(self, scored: Numerical):
        squared = scored.squared_error
        absolute = np.abs(scored.answers - scored.mean)
        self.sums = np.column_stack([scored.nll_rows, squared, absolute, scored.residuals])
        self.order, self.squared = by_entropy(scored.uncertainty, squared)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the metrics of each resample."""
        sums = counts @ self.sums.astype(counts.dtype) / counts.shape[1]
        kept = kept_accuracy(
            counts.take(self.order, 1), self.squared.astype(counts.dtype), REJECTED
        )
        return np.column_stack(
            [
                sums[:, 0],
                np.sqrt(sums[:, 1]),
                sums[:, 2],
                np.abs(sums[:, 3:]).mean(1),
                np.sqrt(np.maximum(kept, 0.0)),
            ]
        )


def calibration_null(
    rows: int, rng: np.random.Generator, draws: int = 500, coverage: float = 0.95
) -> tuple[float, float]:
    """Return the range of calibration error a *perfectly calibrated* model shows on N rows.

    Its answers' P(Y ≤ y) are uniform whatever it predicts, so N is all that matters.
    """
    errors = np.empty(draws)
    for draw in range(draws):
        below = np.sort(rng.random(rows))
        share = np.searchsorted(below, LEVELS, side="right") / rows
        errors[draw] = np.abs(share - LEVELS).mean()
    tail = (1 - coverage) / 2
    low, high = np.quantile(errors, [tail, 1 - tail])
    return float(low), float(high)

"""Judge draws of class probabilities: of labels, or of the options of a question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bhpeft.tasks.metrics import (
    BINS,
    accuracy,
    accuracy_at_rejection,
    bin_of,
    brier,
    brier_rows,
    by_entropy,
    correct_rows,
    ece,
    ece_null,
    kept_accuracy,
    nll,
    nll_rows,
    rejection_curve,
    reliability_table,
)
from bhpeft.tasks.scored import REJECTED, Figures, Headline, ReliabilityBin

_NAN = float("nan")

FIGURES = Figures(
    headline=Headline("accuracy", "accuracy"),
    plain=("accuracy", "nll", "brier", "ece", "accuracy_at_rejection", "mutual_information"),
    calibration=("ece", "ECE"),
    rejected="accuracy_at_rejection",
    said="confidence in the top label",
    happened="accuracy",
    watched={"ece": "Expected calibration error", "brier": "Brier score", "nll": "NLL (nats)"},
)


@dataclass(frozen=True)
class ClassQuality:
    """One model on one set of rows; every figure is NaN where it has no rows or no numbers.

    Attributes:
        accuracy, nll, brier, ece: as in `bhpeft.tasks.metrics`.
        ece_null_low, ece_null_high: 95 % range of ECE were this model perfectly calibrated.
        accuracy_at_rejection: accuracy when the 20 % of highest entropy are refused.
        entropy, mutual_information: means over rows, in nats.
        reliability: the bars of the reliability diagram.
        rejection: (share refused, accuracy of the rest).
    """

    figures: ClassVar[Figures] = FIGURES

    accuracy: float = _NAN
    nll: float = _NAN
    brier: float = _NAN
    ece: float = _NAN
    ece_null_low: float = _NAN
    ece_null_high: float = _NAN
    accuracy_at_rejection: float = _NAN
    entropy: float = _NAN
    mutual_information: float = _NAN
    reliability: tuple[ReliabilityBin, ...] = ()
    rejection: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Categorical:
    """One model's probabilities on labelled rows.

    Attributes:
        probabilities: (S, N, C) float64, one slice a draw; rows sum to one.
        labels: (N,) integers in [0, C).
    """

    figures: ClassVar[Figures] = FIGURES

    probabilities: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit, before they turn into a wrong number.

        Raises:
            ValueError: the arrays are not (S, N, C) and (N,), or a label is outside [0, C).
        """
        if self.probabilities.ndim != 3 or self.probabilities.shape[0] == 0:
            raise ValueError(
                f"Probabilities are {self.probabilities.shape}; expected (draws, rows, labels)."
            )
        if self.labels.shape != self.probabilities.shape[1:2]:
            raise ValueError(
                f"There are {self.labels.shape} labels for {self.probabilities.shape[1]} rows."
            )
        classes = self.probabilities.shape[2]
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"A label is outside 0 … {classes - 1}.")

    @property
    def rows(self) -> int:
        """Return N."""
        return len(self.labels)

    @property
    def finite(self) -> bool:
        """Say whether every probability is a number."""
        return bool(np.isfinite(self.probabilities).all())

    @cached_property
    def mean(self) -> np.ndarray:
        """Return the posterior predictive (N, C): the probabilities averaged over the draws."""
        from bhpeft.posterior.predictive import mean_probability

        return np.asarray(mean_probability(_tensor(self.probabilities)).numpy())

    @cached_property
    def entropy(self) -> np.ndarray:
        """Return the entropy (N,) of the averaged probabilities, in nats."""
        from bhpeft.posterior.predictive import predictive_entropy

        return np.asarray(predictive_entropy(_tensor(self.probabilities)).numpy())

    @cached_property
    def mutual_information(self) -> np.ndarray:
        """Return the mutual information (N,) of label and weights, in nats."""
        from bhpeft.posterior.predictive import mutual_information

        return np.asarray(mutual_information(_tensor(self.probabilities)).numpy())

    @property
    def uncertainty(self) -> np.ndarray:
        """Return the entropy: rows are refused by the whole of their uncertainty."""
        return self.entropy

    @property
    def signals(self) -> Mapping[str, np.ndarray]:
        """Return NLL, correctness and mutual information of each row."""
        return {
            "nll": nll_rows(self.mean, self.labels),
            "accuracy": correct_rows(self.mean, self.labels),
            "mutual_information": self.mutual_information,
        }

    @property
    def weights(self) -> np.ndarray:
        """Return ones: a row is a row."""
        return np.ones(self.rows)

    def take(self, rows: np.ndarray) -> Categorical:
        """Return the same model on a subset of the rows, given as a mask or as positions."""
        return Categorical(self.probabilities[:, rows], self.labels[rows])

    def same_rows(self, other: Categorical) -> bool:
        """Say whether the other was scored on rows with the same labels."""
        return np.array_equal(self.labels, other.labels)

    def baseline(self, known: np.ndarray | None) -> Categorical:
        """Return the predictor that knows the label shares of the training rows and no text."""
        return marginal(self.labels, self.probabilities.shape[2], known)

    def seen(self, labels: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what a drift table shows of the predictions: all there is to a label."""
        return {"probabilities": self.mean, "labels": labels}

    def quality(self, rng: np.random.Generator) -> ClassQuality:
        """Return accuracy, NLL, calibration and what is left when doubtful rows are refused."""
        if not self.rows or not self.finite:
            return ClassQuality()
        mean, labels, entropy = self.mean, self.labels, self.entropy
        low, high = ece_null(mean, rng=rng)
        return ClassQuality(
            accuracy=accuracy(mean, labels),
            nll=nll(mean, labels),
            brier=brier(mean, labels),
            ece=ece(mean, labels),
            ece_null_low=low,
            ece_null_high=high,
            accuracy_at_rejection=accuracy_at_rejection(mean, labels, entropy),
            entropy=float(entropy.mean()),
            mutual_information=float(self.mutual_information.mean()),
            reliability=reliability_table(mean, labels),
            rejection=rejection_curve(mean, labels, entropy),
        )

    def statistics(self) -> ClassStatistics:
        """Return the five metrics whose differences are reported."""
        return ClassStatistics(self)


class ClassStatistics:
    """Turn resample counts (R, N) into the five metrics (R, 5) of one model."""

    names = ("nll", "accuracy", "brier", "ece", "accuracy_at_rejection")

    def __init__(self, scored: Categorical):
        mean, labels = scored.mean, scored.labels
        confidence, right = mean.max(1), correct_rows(mean, labels)
        residual = (right - confidence)[:, None] * np.eye(BINS)[bin_of(confidence)]
        self.sums = np.column_stack(
            [nll_rows(mean, labels), right, brier_rows(mean, labels), residual]
        )
        self.order, self.right = by_entropy(scored.entropy, right)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the metrics of each resample."""
        # One product for all sums over rows, in the counts' own precision: float64 for the value
        # itself, float32 (1e-6 of it) for the two thousand resamples that only say how it varies.
        sums = counts @ self.sums.astype(counts.dtype) / counts.shape[1]
        right = self.right.astype(counts.dtype)
        kept = kept_accuracy(counts.take(self.order, 1), right, REJECTED)
        return np.column_stack([sums[:, :3], np.abs(sums[:, 3:]).sum(1), kept])


def marginal(labels: np.ndarray, classes: int, shares: np.ndarray | None = None) -> Categorical:
    """Return the baseline: the predictor that gives every row the label shares.

    Args:
        labels: (N,) integers.
        classes: C.
        shares: (C,) label shares of the round's training rows. Without them the shares of
            `labels` themselves are used (add-one smoothed), which makes the baseline a little
            stronger than any honest predictor could be.
    """
    if shares is None:
        counts = np.bincount(labels, minlength=classes) + 1.0
        shares = counts / counts.sum()
    probabilities = np.broadcast_to(np.asarray(shares, dtype=np.float64), (1, len(labels), classes))
    return Categorical(probabilities.copy(), labels)


def _tensor(probabilities: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(probabilities, dtype=np.float64))

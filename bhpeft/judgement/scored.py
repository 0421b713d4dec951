"""Hold what two models said about the same rows: the input of every report.

A `Scored` is one model's draws of class probabilities on labelled rows. A `Comparison` is the
candidate and the champion on the same rows, in the same order, so that differences are paired.

In the first round there is no champion. What the candidate then has to beat is `marginal`: the
predictor that knows the label shares and never reads the text. It is called the *baseline*.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from bhpeft.posterior.predictive import mean_probability, mutual_information, predictive_entropy


@dataclass(frozen=True, eq=False)
class Scored:
    """One model's probabilities on labelled rows.

    Attributes:
        probabilities: (S, N, C) float64, one slice a draw; rows sum to one.
        labels: (N,) integers in [0, C).
    """

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
        return np.asarray(mean_probability(self._tensor).numpy())

    @cached_property
    def entropy(self) -> np.ndarray:
        """Return the entropy (N,) of the averaged probabilities, in nats."""
        return np.asarray(predictive_entropy(self._tensor).numpy())

    @cached_property
    def mutual_information(self) -> np.ndarray:
        """Return the mutual information (N,) of label and weights, in nats."""
        return np.asarray(mutual_information(self._tensor).numpy())

    @property
    def _tensor(self) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.probabilities, dtype=np.float64))

    def take(self, rows: np.ndarray) -> Scored:
        """Return the same model on a subset of the rows, given as a mask or as positions."""
        return Scored(self.probabilities[:, rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Comparison:
    """The candidate and the champion on the same rows.

    Attributes:
        name: what these rows are ("holdout", "movie-1", …).
        rows: one line a row: text, label and the columns slices are cut by.
        candidate: the state just learned.
        champion: the state in use, or None in the first round.
    """

    name: str
    rows: pd.DataFrame
    candidate: Scored
    champion: Scored | None

    def __post_init__(self) -> None:
        """Refuse two models that were not scored on the same rows.

        Raises:
            ValueError: the rows or the labels of the two differ.
        """
        if len(self.rows) != self.candidate.rows:
            raise ValueError(
                f"{self.name}: {len(self.rows)} rows but {self.candidate.rows} candidate scores."
            )
        if self.champion is not None and not np.array_equal(
            self.champion.labels, self.candidate.labels
        ):
            raise ValueError(f"{self.name}: candidate and champion were scored on other rows.")

    def reference(self, shares: np.ndarray | None = None) -> Scored:
        """Return what the candidate is compared with: the champion, or else the baseline."""
        if self.champion is not None:
            return self.champion
        return marginal(self.candidate.labels, self.candidate.probabilities.shape[2], shares)

    def take(self, rows: np.ndarray) -> Comparison:
        """Return the same comparison on the rows where the mask (N,) is true."""
        champion = None if self.champion is None else self.champion.take(rows)
        return Comparison(self.name, self.rows[rows], self.candidate.take(rows), champion)


def marginal(labels: np.ndarray, classes: int, shares: np.ndarray | None = None) -> Scored:
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
    return Scored(probabilities.copy(), labels)

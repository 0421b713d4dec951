"""What a run kept of rows, as arrays, and the figures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from benchmarks.reproduction.statistics import ece_of
from bhpeft.tasks.metrics import BINS, bin_of, kept_curve


@dataclass(frozen=True, eq=False)
class Said:
    """What one way of predicting said of rows, each (N,).

    Attributes:
        nll: of the row's label, in nats.
        right: whether the top label is the row's.
        confidence: in the top label.
        entropy, mutual_information: in nats.
    """

    nll: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray

    @classmethod
    def of(cls, kept: Mapping[str, Sequence[float]]) -> Said:
        """Read what `runs.batch.said` kept."""
        return cls(**{one.name: np.asarray(kept[one.name], float) for one in fields(cls)})

    def ece(self, counts: np.ndarray) -> np.ndarray:
        """Return the ECE (R,) of weighted rows, counts (R, N)."""
        return ece_of(counts, self.right, self.confidence)

    def reliability(self) -> list[list[float]]:
        """Return (confidence, accuracy, rows) of each bin that has rows."""
        bins = bin_of(self.confidence)
        found = []
        for one in range(BINS):
            mine = bins == one
            if mine.any():
                found.append(
                    [self.confidence[mine].mean(), self.right[mine].mean(), int(mine.sum())]
                )
        return [[round(float(number), 4) for number in row] for row in found]

    def rejection(self) -> list[list[float]]:
        """Return (share refused, accuracy of the rest), the most uncertain refused first."""
        return [[round(x, 4), round(y, 4)] for x, y in kept_curve(self.entropy, self.right)]


def pooled(parts: Sequence[Said]) -> Said:
    """Return the rows of several seeds together."""
    return Said(
        *(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Said))
    )

"""Survey a batch while it streams by: a bounded sample of each side, and what was learned from.

Each row carries a random key from a fixed seed and the rows with the smallest keys stay, so every
row is equally likely and memory does not grow with the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

KEY = "_key"


@dataclass
class Sample:
    """The rows with the smallest keys so far, in the order they came."""

    most: int
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    # Above the largest key that stayed no further row can enter.
    limit: float = float("inf")

    def see(self, rows: pd.DataFrame, keys: np.ndarray) -> None:
        """Take in rows with their keys."""
        near = keys < self.limit
        if not near.any() and len(self.rows.columns):
            return
        joined = pd.concat([self.rows, rows[near].assign(**{KEY: keys[near]})], ignore_index=True)
        if len(joined) > self.most:
            joined = joined.loc[joined[KEY].nsmallest(self.most).index.sort_values()]
            self.limit = joined[KEY].max() if self.most else 0.0
        self.rows = joined


class Survey:
    """What is kept of a batch's rows as rows, and the answers of those that are learned from.

    Attributes:
        samples: of each side that is asked for.
        targets: of the rows learned from, chunk by chunk.
    """

    def __init__(self, most: Mapping[str, int]):
        """Keep at most so many rows of each side."""
        self.samples = {side: Sample(rows) for side, rows in most.items()}
        self.targets: list[np.ndarray] = []
        self._random = np.random.default_rng(0)

    def see(self, rows: pd.DataFrame, sides: np.ndarray, targets: np.ndarray) -> None:
        """Take in rows with their sides, (N,) both, and the targets of those learned from."""
        self.targets.append(targets)
        keys = self._random.random(len(rows))
        for side, sample in self.samples.items():
            mine = sides == side
            sample.see(rows[mine], keys[mine])

    def held(self, side: str) -> pd.DataFrame:
        """Return the sample of one side."""
        return self.samples[side].rows.drop(columns=KEY, errors="ignore")

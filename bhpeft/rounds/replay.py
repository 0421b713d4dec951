"""Keep a handful of training rows of each batch, to be rehearsed by later rounds.

Posterior → prior carries what was learned only as far as a diagonal Gaussian can: a mean-field
posterior on real text hardly narrows, and a new domain then overwrites directions it cannot name.
Rehearsing a few rows of each earlier batch closes most of that gap at a cost that does not grow.

Rehearsed rows are counted again, which is not Bayes: σ comes out narrower than honest by their
share of the training rows. They are therefore few, off by default, and never hold-out rows.

Source: experience replay; that near-exact posteriors forget too, arXiv 2301.01828.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bhpeft.errors import StateError
from bhpeft.rounds.memory import BATCH, kept

ROWS_FILE = "replay.json"


@dataclass(frozen=True)
class Replay:
    """Training rows of a chain's batches: `_batch`, text, label; oldest first."""

    rows: pd.DataFrame

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the rows, by which a token table knows its content."""
        return hashlib.sha256(self.rows.to_json(orient="split").encode()).hexdigest()

    def with_batch(self, batch_id: str, rows: pd.DataFrame, batches: int) -> Replay:
        """Return the rows with those of one more batch, of so many batches at most."""
        joined = pd.concat([self.rows, rows.assign(**{BATCH: batch_id})], ignore_index=True)
        if joined.empty:
            return self
        stays = kept(list(dict.fromkeys(joined[BATCH])), batches)
        return Replay(joined[joined[BATCH].isin(stays)].reset_index(drop=True))

    def save(self, folder: Path) -> None:
        """Write the rows beside the state they belong to."""
        self.rows.to_json(folder / ROWS_FILE, orient="split", index=False, force_ascii=False)

    @classmethod
    def load(cls, folder: Path) -> Replay:
        """Read a version's rows.

        Raises:
            StateError: the file is missing or not what `save` writes.
        """
        try:
            path = folder / ROWS_FILE
            return cls(pd.read_json(path, orient="split", dtype=False, convert_dates=False))
        except (OSError, ValueError) as problem:
            raise StateError(
                "The rows a version rehearses cannot be read",
                found=str(problem),
                expected=f"{ROWS_FILE} in its artefacts",
                remedy="Roll back to a version whose files are whole.",
            ) from problem


NOTHING = Replay(pd.DataFrame())

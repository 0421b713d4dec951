"""Hold what two models said about the same rows: the input of every report.

A `Scored` (`bhpeft.tasks.scored`) is one model's draws on rows whose answers are known. A
`Comparison` is the candidate and the champion on the same rows, in the same order, so that
differences are paired.

In the first round there is no champion. What the candidate then has to beat is a model that never
reads a row and knows only what the training rows' answers were. It is called the *baseline*.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bhpeft.tasks import Scored

__all__ = ["Comparison", "Scored"]


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
            ValueError: the rows or the answers of the two differ.
        """
        if len(self.rows) != self.candidate.rows:
            raise ValueError(
                f"{self.name}: {len(self.rows)} rows but {self.candidate.rows} candidate scores."
            )
        if self.champion is not None and not self.candidate.same_rows(self.champion):
            raise ValueError(f"{self.name}: candidate and champion were scored on other rows.")

    def reference(self, known: np.ndarray | None = None) -> Scored:
        """Return what the candidate is compared with: the champion, or else the baseline."""
        reference: Scored = self.champion or self.candidate.baseline(known)
        return reference

    def take(self, rows: np.ndarray) -> Comparison:
        """Return the same comparison on the rows where the mask (N,) is true."""
        champion = None if self.champion is None else self.champion.take(rows)
        return Comparison(self.name, self.rows[rows], self.candidate.take(rows), champion)

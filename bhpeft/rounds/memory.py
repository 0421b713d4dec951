"""Keep a chain's frozen hold-out rows: what an update must not forget, and what drift is against.

The hold-out rows of every batch the chain learned travel with the version, as far as the stream
file allows. No round of the chain ever trained on them. They are the regression sets of the gates
and the reference of the drift report, and because they travel with the version, a rollback brings
the right ones back. The version's own scores of them travel too: they are its fixed draws, so
scoring the champion on them again could only give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from bhpeft.errors import StateError

ROWS_FILE = "memory.json"
SCORES_FILE = "memory.safetensors"
BATCH = "_batch"


@dataclass(frozen=True)
class Memory:
    """Frozen hold-out rows of a chain, and what one version says of them.

    Attributes:
        rows: columns `_batch`, the contract's text, label and slices; oldest batch first.
        probabilities: the version's draws on them, (S, N, C) float64.
        embeddings: the base model's vector of each, (N, d) float32.
    """

    rows: pd.DataFrame
    probabilities: np.ndarray
    embeddings: np.ndarray

    @property
    def sets(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each batch's id and the positions of its rows, oldest first."""
        ids = self.rows[BATCH].to_numpy()
        for batch_id in dict.fromkeys(ids):
            yield str(batch_id), np.flatnonzero(ids == batch_id)

    def widened(self, outputs: int) -> Memory:
        """Return the memory with room for labels its rows' contracts did not know: never said."""
        more = outputs - self.probabilities.shape[-1]
        if not outputs or more <= 0:
            return self
        padded = np.pad(self.probabilities, ((0, 0), (0, 0), (0, more)))
        return replace(self, probabilities=padded)

    def save(self, folder: Path) -> None:
        """Write the memory beside the state it belongs to."""
        self.rows.to_json(folder / ROWS_FILE, orient="split", index=False, force_ascii=False)
        save_file(
            {
                "probabilities": np.ascontiguousarray(self.probabilities, dtype=np.float64),
                "embeddings": np.ascontiguousarray(self.embeddings, dtype=np.float32),
            },
            folder / SCORES_FILE,
        )

    @classmethod
    def load(cls, folder: Path) -> Memory:
        """Read a version's memory.

        Raises:
            StateError: a file is missing or does not fit the other.
        """
        try:
            # Labels such as "1" or "2020-01-01" must come back as the texts they are.
            rows = pd.read_json(
                folder / ROWS_FILE, orient="split", dtype=False, convert_dates=False
            )
            scores = load_file(folder / SCORES_FILE)
            memory = cls(rows, scores["probabilities"], scores["embeddings"])
        except (OSError, ValueError, KeyError, SafetensorError) as problem:
            raise StateError(
                "The hold-out rows of a version cannot be read",
                found=str(problem),
                expected=f"{ROWS_FILE} and {SCORES_FILE} in its artefacts",
                remedy="Roll back to a version whose files are whole.",
            ) from problem
        if memory.probabilities.shape[1] != len(rows) or len(memory.embeddings) != len(rows):
            raise StateError(
                "The hold-out rows of a version do not fit their scores",
                found=f"{len(rows)} rows and {memory.probabilities.shape[1]} scores",
                expected="as many of both",
                remedy="Roll back to a version whose files are whole.",
            )
        return memory


def kept(ids: list[str], batches: int) -> list[str]:
    """Return which batches' rows stay: the first, which the chain began with, and the latest.

    Cost and size of a round must not depend on how many rounds came before it.
    """
    return ids if len(ids) <= batches else [ids[0], *ids[len(ids) - batches + 1 :]][:batches]

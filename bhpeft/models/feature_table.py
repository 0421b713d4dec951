"""Read a token table with what the frozen layers made of each row, run once a row.

Where only upper layers are adapted, the first epoch runs the layers below and keeps what they make
(`bhpeft.models.feature_file`); from the second on it is read. A minibatch then carries `features`,
and the model starts at the lowest adapted layer.

The file is named by what decides its content: the token table (the rows, the tokenizer, the length
limit), the base's fingerprint, its dtype and how many layers are below. When one of them changes it
is another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.feature_file import SUFFIX, FeatureFile, feature_file
from bhpeft.models.tokens import ALL, Share, TokenTable


class FeatureTable:
    """A token table whose minibatches carry the `features` of their rows, (B, T, d)."""

    def __init__(self, table: TokenTable, model: AdaptedModel, file: FeatureFile):
        self._table, self._model, self._file = table, model, file

    def __len__(self) -> int:
        return len(self._table)

    @property
    def identity(self) -> str:
        """Return the digest of the rows and of how they are read."""
        return f"features of {self._table.identity}"

    def steps(self, size: int) -> int:
        """Return how many minibatches of `size` an epoch has."""
        return self._table.steps(size)

    def minibatches(
        self, size: int, generator: Generator, share: Share = ALL
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the table's minibatches, in the same order as without features."""
        for minibatch in self._table.minibatches(size, generator, share):
            yield minibatch | {"features": self._features(minibatch)}

    def _features(self, minibatch: dict[str, Tensor]) -> Tensor:
        rows = minibatch["positions"].numpy()
        if self._file.knows(rows):
            return self._file.read(rows)
        hidden = self._model.features(minibatch)
        self._file.write(rows, hidden)
        return hidden


@contextmanager
def with_features(
    table: TokenTable, model: AdaptedModel, folder: Path, limit: int
) -> Iterator[TokenTable | FeatureTable]:
    """Give the table with features where they can be kept, else the table, for a `with` block.

    Args:
        table: the rows.
        model: its methods say which layers are below.
        folder: where files of features are kept.
        limit: bytes that the folder may hold; 0 keeps none.
    """
    below = model.frozen_layers
    if not (below and limit and len(table)):
        yield table
        return
    dtype: torch.dtype = model.model.dtype
    identity = f"{table.path.stem} {model.base.fingerprint} {dtype} {below}"
    path = folder / f"{sha256(identity.encode()).hexdigest()}{SUFFIX}"
    ends = np.cumsum(table.lengths(), dtype=np.int64)
    file = feature_file(path, ends, int(model.model.config.hidden_size), dtype, limit)
    if file is None:
        yield table
        return
    try:
        yield FeatureTable(table, model, file)
    finally:
        file.drop_if_partial()

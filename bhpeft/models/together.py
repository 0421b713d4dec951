"""Read several token tables as one: the minibatches of all, in a random order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

import torch
from torch import Generator, Tensor

from bhpeft.models.feature_table import FeatureTable
from bhpeft.models.tokens import ALL, Share, TokenTable

Table = TokenTable | FeatureTable


class TablesTogether:
    """Tables of one tokenizer, read as one; a minibatch is of one of them."""

    def __init__(self, tables: Sequence[Table | TablesTogether]):
        self._tables = tuple(tables)

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables)

    @property
    def identity(self) -> str:
        """Return the digest of all their rows."""
        return sha256("\n".join(table.identity for table in self._tables).encode()).hexdigest()

    def steps(self, size: int) -> int:
        """Return how many minibatches of `size` an epoch has."""
        return sum(table.steps(size) for table in self._tables)

    def minibatches(
        self, size: int, generator: Generator, share: Share = ALL
    ) -> Iterator[dict[str, Tensor]]:
        """Yield every row of every table once, in minibatches that take turns at random.

        Args:
            size: rows a minibatch.
            generator: on the CPU; fixes the order.
            share: which of a minibatch's rows are read, as of one table's.
        """
        turns = [at for at, table in enumerate(self._tables) for _ in range(table.steps(size))]
        order = torch.randperm(len(turns), generator=generator).tolist()
        seeds = torch.randint(2**62, (len(self._tables),), generator=generator).tolist()
        running = [
            table.minibatches(size, Generator().manual_seed(seed), share)
            for table, seed in zip(self._tables, seeds, strict=True)
        ]
        for turn in order:
            yield next(running[turns[turn]])

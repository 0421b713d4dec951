"""Take a batch in: checked against its contract, split by row hash, tokenised once.

The batch is read as a stream. Training rows go to a memory-mapped token table; of the selection
and hold-out sides a bounded sample is kept as rows, since people and gates look at those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.data.rows import read_rows
from bhpeft.data.split import Fractions, side_of
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import Chunk, TokenTable
from bhpeft.stream import Stream

# Enough for a one-point difference in accuracy to be seen (standard error 0.6 points), few enough
# to score with every draw in a minute.
MOST_HELD_ROWS = 2_000


@dataclass(frozen=True)
class Intake:
    """A batch, ready to be learned.

    Attributes:
        batch: where it came from.
        contract: what its columns mean.
        train: its training rows, tokenised.
        selection, holdout: rows of the other two sides: text, label and slices.
        label_shares: share of each label among the training rows, in the contract's order.
    """

    batch: Batch
    contract: Contract
    train: TokenTable
    selection: pd.DataFrame
    holdout: pd.DataFrame
    label_shares: np.ndarray


def take_in(
    stream: Stream, batch: Batch, contract: Contract, model: AdaptedModel, cache: Path
) -> Intake:
    """Split and tokenise a checked batch."""
    split = fractions_of(stream)
    tokenizer = model.base.tokenizer
    train = TokenTable.build(
        _training_chunks(batch, contract, split),
        tokenizer,
        stream.model.max_length,
        cache,
        content=f"{batch.digest} {split} {contract.labels}",
    )
    held, shares = _survey(batch, contract, split)
    return Intake(batch, contract, train, held["selection"], held["holdout"], shares)


def fractions_of(stream: Stream) -> Fractions:
    """Return the stream's split."""
    data = stream.data
    return Fractions(1.0 - data.selection - data.holdout, data.selection, data.holdout)


def label_indices(rows: pd.DataFrame, contract: Contract) -> np.ndarray:
    """Return each row's label as its position in the contract's list, (N,)."""
    index = {label: position for position, label in enumerate(contract.labels)}
    return np.array([index[str(label)] for label in rows[contract.label]], dtype=np.int64)


def _training_chunks(batch: Batch, contract: Contract, split: Fractions) -> Iterator[Chunk]:
    first = 0
    for chunk in _frames(batch, contract):
        mine = np.flatnonzero(side_of(chunk[contract.text].tolist(), split) == "train")
        rows = chunk.iloc[mine]
        yield (
            rows[contract.text].tolist(),
            label_indices(rows, contract).tolist(),
            (mine + first).tolist(),
        )
        first += len(chunk)


def _survey(
    batch: Batch, contract: Contract, split: Fractions
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Return a bounded sample of the two sides kept apart, and the training rows' label shares.

    Each row carries a random key from a fixed seed and the rows with the smallest keys stay, so
    every row is equally likely and memory does not grow with the batch.
    """
    random = np.random.default_rng(0)
    held = {"selection": pd.DataFrame(), "holdout": pd.DataFrame()}
    # One of each to begin with: a label the training rows lack must not have probability zero.
    counts = np.ones(len(contract.labels))
    for chunk in _frames(batch, contract):
        sides = side_of(chunk[contract.text].tolist(), split)
        mine = chunk[sides == "train"]
        counts += np.bincount(label_indices(mine, contract), minlength=len(counts))
        chunk = chunk.assign(_key=random.random(len(chunk)))
        for side in held:
            held[side] = _fewest(pd.concat([held[side], chunk[sides == side]], ignore_index=True))
    rows = {side: kept.drop(columns="_key", errors="ignore") for side, kept in held.items()}
    return rows, counts / counts.sum()


def _fewest(rows: pd.DataFrame) -> pd.DataFrame:
    if len(rows) <= MOST_HELD_ROWS:
        return rows
    return rows.loc[rows["_key"].nsmallest(MOST_HELD_ROWS).index.sort_values()]


def _frames(batch: Batch, contract: Contract) -> Iterator[pd.DataFrame]:
    columns = [contract.text, contract.label, *contract.slices]
    for chunk in read_rows(batch, contract):
        yield chunk.select(list(dict.fromkeys(columns))).to_pandas()

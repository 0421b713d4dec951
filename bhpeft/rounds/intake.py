"""Take a batch in: checked against its contract, split by row hash, tokenised once.

The batch is read as a stream. Training rows go to a memory-mapped token table; of the selection
and hold-out sides a bounded sample is kept as rows, since people and gates look at those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.data.rows import read_rows
from bhpeft.data.split import Fractions, side_of
from bhpeft.learning.state import Spec
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import Chunk, TokenTable
from bhpeft.rounds.asked import inputs_of, targets_of
from bhpeft.rounds.labels import known_to, known_to_rows
from bhpeft.rounds.memory import BATCH
from bhpeft.rounds.replay import NOTHING, Replay
from bhpeft.stream import Stream
from bhpeft.tasks import Task

# Enough for a one-point difference in accuracy to be seen (standard error 0.6 points), few enough
# to score with every draw in a minute.
MOST_HELD_ROWS = 2_000


@dataclass(frozen=True)
class Intake:
    """A batch, ready to be learned.

    Attributes:
        batch: where it came from.
        contract: what its columns mean.
        train: its training rows and the rehearsed ones, tokenised.
        own_rows: how many of them are the batch's own.
        replay: what the candidate's successors will rehearse.
        selection, holdout: rows of the other two sides: text, label and slices.
        labels: how many of the contract's labels the batch knew.
        known: what a model that never reads a row may know of the training rows' answers, such as
            the share of each label in the contract's order.
    """

    batch: Batch
    contract: Contract
    train: TokenTable
    own_rows: int
    replay: Replay
    selection: pd.DataFrame
    holdout: pd.DataFrame
    labels: int
    known: np.ndarray


def take_in(
    stream: Stream,
    batch: Batch,
    contract: Contract,
    model: AdaptedModel,
    cache: Path,
    replay: Replay = NOTHING,
    learned: Spec | None = None,
) -> Intake:
    """Split and tokenise a checked batch, and the rows of earlier ones it is rehearsed with.

    Args:
        stream: says how rows are parted and how long texts may be.
        batch: what is taken in.
        contract: its labels in the order of the head's rows.
        model: whose tokenizer it is.
        cache: where token tables are kept.
        replay: rows of the chain to be rehearsed.
        learned: the champion's spec; None in round 0.
    """
    labels = known_to(batch, contract, learned)
    split, predicted = fractions_of(stream), stream.task.value
    tokenizer = model.base.tokenizer
    train = TokenTable.build(
        chain(
            _training_chunks(predicted, batch, contract, split, labels),
            _rehearsed(predicted, replay, contract, learned),
        ),
        tokenizer,
        stream.model.max_length,
        cache,
        content=f"{batch.digest} {split} {contract.text} {contract.label} {contract.labels} "
        f"{labels} {replay.digest}",
        numbers=not predicted.needs.listed,
    )
    data = stream.data
    sides = {"selection": MOST_HELD_ROWS, "holdout": MOST_HELD_ROWS, "train": data.replay_rows}
    held, known = _survey(predicted, batch, contract, split, sides)
    return Intake(
        batch=batch,
        contract=contract,
        train=train,
        own_rows=len(train) - len(replay.rows),
        replay=replay.with_batch(batch.batch_id, held["train"], data.memory_batches),
        selection=held["selection"],
        holdout=held["holdout"],
        labels=labels,
        known=known,
    )


def fractions_of(stream: Stream) -> Fractions:
    """Return the stream's split."""
    data = stream.data
    return Fractions(1.0 - data.selection - data.holdout, data.selection, data.holdout)


def _training_chunks(
    predicted: Task, batch: Batch, contract: Contract, split: Fractions, labels: int
) -> Iterator[Chunk]:
    first = 0
    for chunk in _frames(batch, contract):
        mine = np.flatnonzero(side_of(chunk[contract.text].tolist(), split) == "train")
        rows = chunk.iloc[mine]
        yield (
            inputs_of(predicted, rows, contract),
            targets_of(predicted, rows, contract).tolist(),
            (mine + first).tolist(),
            [labels] * len(mine),
        )
        first += len(chunk)


def _rehearsed(
    predicted: Task, replay: Replay, contract: Contract, learned: Spec | None
) -> Iterator[Chunk]:
    rows = replay.rows
    if not rows.empty:
        # Rehearsed rows are not rows of this batch, hence no row number of it.
        labels = targets_of(predicted, rows, contract).tolist()
        options = known_to_rows(rows[BATCH], learned).tolist()
        yield inputs_of(predicted, rows, contract), labels, [-1] * len(rows), options


def _survey(
    predicted: Task, batch: Batch, contract: Contract, split: Fractions, most: Mapping[str, int]
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """Return a bounded sample of each side, and the tally of the training rows' answers.

    Each row carries a random key from a fixed seed and the rows with the smallest keys stay, so
    every row is equally likely and memory does not grow with the batch.
    """
    random = np.random.default_rng(0)
    held = {side: pd.DataFrame() for side in most}
    targets = []
    for chunk in _frames(batch, contract):
        sides = side_of(chunk[contract.text].tolist(), split)
        targets.append(targets_of(predicted, chunk[sides == "train"], contract))
        chunk = chunk.assign(_key=random.random(len(chunk)))
        for side, rows in held.items():
            joined = pd.concat([rows, chunk[sides == side]], ignore_index=True)
            held[side] = _fewest(joined, most[side])
    found = {side: kept.drop(columns="_key", errors="ignore") for side, kept in held.items()}
    return found, predicted.tally(targets, contract.labels)


def _fewest(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    if len(rows) <= most:
        return rows
    return rows.loc[rows["_key"].nsmallest(most).index.sort_values()]


def _frames(batch: Batch, contract: Contract) -> Iterator[pd.DataFrame]:
    columns = [contract.text, contract.label, *contract.slices]
    for chunk in read_rows(batch, contract):
        yield chunk.select(list(dict.fromkeys(columns))).to_pandas()

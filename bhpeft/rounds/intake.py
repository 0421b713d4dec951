"""Take a batch in: checked against its contract, split by row hash, tokenised once.

The batch is read as a stream, once. Training rows go to a memory-mapped token table, no more of
them than the plan's steps can look at; of every side a bounded sample is kept as rows, since people
and gates look at those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.data.rows import read_rows
from bhpeft.data.split import Fractions, position_of, side_at
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import Spec
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import Chunk, TokenTable
from bhpeft.rounds.asked import inputs_of, options_of, targets_of
from bhpeft.rounds.labels import known_to, known_to_rows
from bhpeft.rounds.memory import BATCH
from bhpeft.rounds.replay import NOTHING, Replay
from bhpeft.rounds.survey import Survey
from bhpeft.stream import Stream
from bhpeft.tasks import Task

# Enough for a one-point difference in accuracy to be seen (standard error 0.6 points), few enough
# to score with every draw in a minute.
MOST_HELD_ROWS = 2_000

# Rows in memory at a time: a few megabytes of text.
CHUNK_ROWS = 16_384


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
    labels, predicted = known_to(batch, contract, learned), stream.task.value
    split, (rows, batches) = fractions_of(stream), stream.data.rehearsed
    limit = limit_of(batch, split, Plan(**stream.learning.plan))
    survey = Survey({"selection": MOST_HELD_ROWS, "holdout": MOST_HELD_ROWS, "train": rows})
    chunks = _training_chunks(stream, batch, contract, limit, labels, survey)
    train = TokenTable.build(
        chain(chunks, _rehearsed(predicted, replay, contract, learned)),
        model.base.tokenizer,
        stream.model.max_length,
        cache,
        content=f"{stream.task} {batch.digest} {split} {limit} {contract.text} {contract.options} "
        f"{contract.label} {contract.labels} {labels} {replay.digest}",
        numbers=not predicted.needs.listed,
    )
    # Where the table was there before, nothing has been read yet.
    for _ in chunks:
        pass
    return Intake(
        batch=batch,
        contract=contract,
        train=train,
        own_rows=len(train) - len(replay.rows),
        replay=replay.with_batch(batch.batch_id, survey.held("train"), batches),
        selection=survey.held("selection"),
        holdout=survey.held("holdout"),
        labels=labels,
        known=predicted.tally(survey.targets, contract.labels),
    )


@dataclass(frozen=True)
class Limit:
    """Say which training rows are learned from, where a batch has more than the plan can look at.

    A text's place in the split is a hash of it, so the training rows below a place are a random
    sample of them, and the same one whenever the batch is read.

    Attributes:
        place: training rows from there on are left out.
        rows: and of those before it, any that are too many after all.
    """

    place: float
    rows: int | None


def limit_of(batch: Batch, split: Fractions, plan: Plan) -> Limit:
    """Return the limit that a batch's size and the plan's steps make."""
    most, expected = plan.most_rows, batch.rows * split.train
    if most is None or expected <= most:
        return Limit(split.train, most)
    # The sample's size varies by its root; three of them short, it is cut once in a thousand times.
    return Limit(split.train * max(most - 3 * math.sqrt(most), 1.0) / expected, most)


def fractions_of(stream: Stream) -> Fractions:
    """Return the stream's split."""
    data = stream.data
    return Fractions(1.0 - data.selection - data.holdout, data.selection, data.holdout)


def _training_chunks(
    stream: Stream,
    batch: Batch,
    contract: Contract,
    limit: Limit,
    labels: int,
    survey: Survey,
) -> Iterator[Chunk]:
    """Yield the training rows chunk by chunk, and show every row to the survey."""
    split, predicted = fractions_of(stream), stream.task.value
    first = taken = 0
    for chunk in _frames(batch, contract):
        place = position_of(chunk[contract.text].tolist())
        sides = side_at(place, split)
        mine = np.flatnonzero((sides == "train") & (place < limit.place))
        mine = mine if limit.rows is None else mine[: limit.rows - taken]
        rows = chunk.iloc[mine]
        targets = targets_of(predicted, rows, contract)
        survey.see(chunk, sides, targets)
        options = options_of(rows, contract, np.full(len(rows), labels)).tolist()
        numbers = (mine + first).tolist()
        yield inputs_of(predicted, rows, contract), targets.tolist(), numbers, options
        first, taken = first + len(chunk), taken + len(mine)


def _rehearsed(
    predicted: Task, replay: Replay, contract: Contract, learned: Spec | None
) -> Iterator[Chunk]:
    rows = replay.rows
    if not rows.empty:
        # Rehearsed rows are not rows of this batch, hence no row number of it.
        labels = targets_of(predicted, rows, contract).tolist()
        options = options_of(rows, contract, known_to_rows(rows[BATCH], learned)).tolist()
        yield inputs_of(predicted, rows, contract), labels, [-1] * len(rows), options


def _frames(batch: Batch, contract: Contract) -> Iterator[pd.DataFrame]:
    columns = [contract.text, *contract.options, *contract.answer, *contract.slices]
    for chunk in read_rows(batch, contract, CHUNK_ROWS):
        yield chunk.select(list(dict.fromkeys(columns))).to_pandas()

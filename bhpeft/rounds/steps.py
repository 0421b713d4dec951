"""The steps of a round that learn and examine: each one function over plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.judgement.gates import check_settings
from bhpeft.learning.grow import grow
from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.registry import Registry, Version
from bhpeft.rounds.intake import Intake, take_in
from bhpeft.rounds.labels import in_learned_order
from bhpeft.rounds.memory import Memory
from bhpeft.rounds.population import Pinned, check_group
from bhpeft.rounds.replay import NOTHING, Replay
from bhpeft.rounds.spec import model_of
from bhpeft.rounds.training import Trained, train
from bhpeft.rounds.trial import Trial, put_to_trial
from bhpeft.stream import Stream

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Inherited:
    """What a round gets from the champion: its state, its memory and what it costs to use.

    Attributes:
        version: the champion.
        state: its posterior and point weights.
        memory: the chain's frozen hold-out rows with the champion's scores.
        replay: training rows of the chain to be rehearsed.
        state_bytes: the size of its files.
    """

    version: Version
    state: AdapterState
    memory: Memory
    replay: Replay
    state_bytes: int


@dataclass(frozen=True)
class Ready:
    """A model and a batch, ready for training.

    Attributes:
        model: for all labels the contract knows.
        intake: the batch.
        parent: the champion's state with a row for each of them; None in round 0.
        memory: the chain's frozen rows with the champion's scores, likewise.
        pinned: the population of the stream's group, whose N(Θ, 1/τ) is the base prior.
    """

    model: AdaptedModel
    intake: Intake
    parent: AdapterState | None = None
    memory: Memory | None = None
    pinned: Pinned | None = None


def fetch_parent(registry: Registry, parent: Version | None, folder: Path) -> Inherited | None:
    """Download the champion's files, checked against their checksums; None in round 0."""
    if parent is None:
        return None
    registry.download(parent, folder)
    size = sum(path.stat().st_size for path in folder.iterdir())
    return Inherited(
        parent, AdapterState.load(folder), Memory.load(folder), Replay.load(folder), size
    )


def prepare(
    stream: Stream,
    batch: Batch,
    contract: Contract,
    inherited: Inherited | None,
    pinned: Pinned | None = None,
) -> Ready:
    """Build the model and take the batch in.

    Raises:
        ConfigError: the stream file asks for a gate nobody knows; said now, not after training.
        StateError: the stream's group lives in other coordinates than its model.
    """
    check_settings(stream.gates)
    learned = inherited.state.spec if inherited else None
    contract = in_learned_order(contract, learned)
    model = model_of(stream, contract, inherited.state if inherited else None)
    check_group(stream, model, pinned)
    replay = inherited.replay if inherited else NOTHING
    intake = take_in(stream, batch, contract, model, stream.cache, replay, learned)
    if inherited is None:
        return Ready(model, intake, pinned=pinned)
    parent = grow(inherited.state, model, contract.labels)
    return Ready(model, intake, parent, inherited.memory.widened(len(contract.labels)), pinned)


def train_candidate(
    stream: Stream, ready: Ready, inherited: Inherited | None, progress: Progress | None
) -> Trained:
    """Fit the candidate from the champion's posterior."""
    watch = None if progress is None else _stage(progress, "train")
    return train(stream, ready.intake, ready.model, ready.parent, watch, ready.memory, ready.pinned)


def examine(
    stream: Stream,
    ready: Ready,
    inherited: Inherited | None,
    trained: Trained,
    progress: Progress | None,
) -> Trial:
    """Score candidate and champion, measure drift, build the report and decide."""
    watch = None if progress is None else _stage(progress, "judge")
    return put_to_trial(
        stream,
        ready.model,
        ready.intake,
        trained,
        champion=ready.parent,
        memory=ready.memory,
        watch=watch,
    )


def _stage(progress: Progress, name: str) -> Callable[[int, int], None]:
    def watch(done: int, total: int) -> None:
        progress(name, done, total)

    return watch

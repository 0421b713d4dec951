"""Run rounds of a stream one after another and say what each part of each took."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.memory import resident
from benchmarks.streams import deliver, registry_of
from bhpeft.learning.predict import Predictor
from bhpeft.rounds import learn
from bhpeft.stream import Stream

SCORING = ("logits", "embeddings")


@dataclass(frozen=True)
class Timed:
    """What one round took.

    Attributes:
        parts: CPU seconds by step, and of "scoring", which is a part of the step "examine".
        seconds: CPU seconds of all of it.
        resident: bytes the process held when it ended.
    """

    parts: dict[str, float]
    seconds: float
    resident: int

    @property
    def overhead(self) -> float:
        """Return what was neither training nor scoring."""
        return self.seconds - self.parts["train_candidate"] - self.parts["scoring"]


def timed_rounds(stream: Stream, batches: Iterator[pd.DataFrame]) -> Iterator[Timed]:
    """Land each batch, learn it, and yield what that took."""
    registry = registry_of(stream)
    for day, rows in enumerate(batches):
        batch = deliver(stream, rows, day)
        parts: Counter[str] = Counter()
        began = time.process_time()
        with _scoring_timed(parts):
            learn(stream, batch, registry, run=_timing(parts), by="a benchmark")
        yield Timed(dict(parts), time.process_time() - began, resident())


def _timing(parts: Counter[str]) -> Callable[..., Any]:
    """Return a runner of steps that adds up what each took."""

    def run(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with _added(parts, step.__name__):
            return step(*args, **kwargs)

    return run


@contextmanager
def _scoring_timed(parts: Counter[str]) -> Iterator[None]:
    """Add up what `Predictor` takes to score rows, wherever a round calls it."""
    plain = {name: getattr(Predictor, name) for name in SCORING}
    for name, method in plain.items():
        setattr(Predictor, name, _counted(method, parts))
    try:
        yield
    finally:
        for name, method in plain.items():
            setattr(Predictor, name, method)


def _counted(method: Callable[..., Any], parts: Counter[str]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _added(parts, "scoring"):
            return method(*args, **kwargs)

    return call


@contextmanager
def _added(parts: Counter[str], name: str) -> Iterator[None]:
    began = time.process_time()
    try:
        yield
    finally:
        parts[name] += time.process_time() - began

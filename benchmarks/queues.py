"""Simulate rounds waiting for GPUs: an event at a time, no clock but its own.

A stream is a chain, so its batches are learned one after the other; streams share the GPUs. A
stream belongs to one queue (by its number, as a hash of its name would have it) and a queue to one
GPU, or all GPUs serve one queue. Which round is next is a policy:

    drain   the stream that has just been learned, until it has no more
    watch N the same, but after N rounds it goes to the end of the queue: what a watch does
    first   the oldest batch
    any     any stream's oldest batch: Prefect promises no order
    fair    the oldest batch among the streams that have had the fewest rounds today
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DAY = 86_400.0


@dataclass(frozen=True)
class Load:
    """A day's batches.

    Attributes:
        stream: (N,) whose batch it is.
        landed: (N,) seconds since midnight, increasing.
        seconds: (N,) how long its round takes on a GPU.
    """

    stream: np.ndarray
    landed: np.ndarray
    seconds: np.ndarray


def daily(
    streams: int,
    mean_seconds: float,
    *,
    window: float = DAY,
    spread: float = 0.5,
    heavy: int = 0,
    heavy_batches: int = 100,
    seed: int = 0,
) -> Load:
    """Return one batch a stream and day, and `heavy_batches` for each of a few streams at midnight.

    Args:
        streams: how many.
        mean_seconds: of a round.
        window: all land within so many seconds of midnight.
        spread: of the logarithm of a round's seconds.
        heavy: streams that deliver a backlog at once.
        heavy_batches: how large that is.
        seed: of the draw.
    """
    random = np.random.default_rng(seed)
    stream = np.concatenate([np.arange(streams), np.repeat(np.arange(heavy), heavy_batches)])
    landed = np.concatenate([random.uniform(0, window, streams), np.zeros(heavy * heavy_batches)])
    scale = mean_seconds * np.exp(-(spread**2) / 2)
    seconds = scale * np.exp(spread * random.standard_normal(len(stream)))
    order = np.argsort(landed, kind="stable")
    return Load(stream[order], landed[order], seconds[order])


def waits(
    load: Load, gpus: int, *, shared: bool = True, policy: str = "fair", seed: int = 0
) -> np.ndarray:
    """Return how long each batch waited for its round to begin, (N,) seconds.

    Raises:
        KeyError: an unknown policy.
    """
    if shared:
        return _one_queue(load, gpus, policy, seed)
    found = np.zeros(len(load.stream))
    for gpu in range(gpus):
        mine = np.flatnonzero(load.stream % gpus == gpu)
        part = Load(load.stream[mine], load.landed[mine], load.seconds[mine])
        found[mine] = _one_queue(part, 1, policy, seed + gpu)
    return found


def summary(seconds: np.ndarray) -> dict[str, float]:
    """Return the median, the 95th and 99th percentile and the longest, in seconds."""
    if not len(seconds):
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(seconds.max())}


def _one_queue(load: Load, servers: int, policy: str, seed: int) -> np.ndarray:
    key = _KEYS[policy](np.random.default_rng(seed))
    begins, used = np.zeros(len(load.stream)), dict.fromkeys(load.stream.tolist(), 0)
    backlog: dict[int, list[int]] = {}
    ready: list[tuple[float, int]] = []
    busy: list[tuple[float, int]] = []
    learning: set[int] = set()
    arrivals, now = 0, 0.0

    row = dict.fromkeys(load.stream.tolist(), 0)

    def offer(stream: int, goes_on: bool) -> None:
        """Put the oldest batch of a stream that is not being learned into the queue."""
        if stream not in learning and backlog.get(stream):
            learning.add(stream)
            batch = backlog[stream].pop(0)
            row[stream] = row[stream] + 1 if goes_on else 0
            place = Place(load.landed[batch], now, used[stream], row[stream])
            heapq.heappush(ready, (key(place), batch))

    while arrivals < len(load.stream) or busy or ready:
        while ready and len(busy) < servers:
            batch = heapq.heappop(ready)[1]
            begins[batch] = now
            heapq.heappush(busy, (now + load.seconds[batch], batch))
        landing = load.landed[arrivals] if arrivals < len(load.stream) else np.inf
        ending = busy[0][0] if busy else np.inf
        now = float(min(landing, ending))
        goes_on = landing > ending
        if not goes_on:
            stream = int(load.stream[arrivals])
            backlog.setdefault(stream, []).append(arrivals)
            arrivals += 1
        else:
            stream = int(load.stream[heapq.heappop(busy)[1]])
            used[stream] += 1
            learning.discard(stream)
        offer(stream, goes_on)
    return begins - load.landed


class Place(NamedTuple):
    """What a policy knows of a batch that is offered.

    Attributes:
        landed: when, in seconds.
        now: when it is offered.
        used: rounds its stream has had today.
        row: rounds its stream has just had in a row, one after the other.
    """

    landed: float
    now: float
    used: int
    row: int


Key = Callable[[Place], float]


def _watching(rounds: float) -> Callable[[np.random.Generator], Key]:
    def key(at: Place) -> float:
        return -1.0 if at.row % rounds else at.now if at.row else at.landed

    return lambda random: key


_KEYS: dict[str, Callable[[np.random.Generator], Key]] = {
    "drain": _watching(math.inf),
    **{f"watch {rounds}": _watching(rounds) for rounds in (1, 3, 10)},
    "first": lambda random: lambda at: at.landed,
    "any": lambda random: lambda at: float(random.random()),
    "fair": lambda random: lambda at: at.used * DAY + at.landed,
}
POLICIES: Sequence[str] = tuple(_KEYS)

"""Compare ways of doing the same by taking turns, so that a busy machine slows all of them alike.

Each repeat runs every way once, in an order that changes; a figure is the median over repeats of
the way's time divided by the first way's time *of the same repeat*, with the quartiles beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from benchmarks.budget import Budget


@dataclass(frozen=True)
class Row:
    """One figure, better when lower.

    Attributes:
        what: what was compared with what, or what was measured in which unit.
        ratio, low, high: median and quartiles.
        target: the most it may be, if anything was promised.
    """

    what: str
    ratio: float
    low: float
    high: float
    target: float | None = None


def ratios(ways: Mapping[str, Callable[[], object]], budget: Budget) -> dict[str, list[float]]:
    """Return each way's time over the first one's, one for each repeat."""
    found = seconds(ways, budget)
    first = next(iter(found.values()))
    return {name: over(times, first) for name, times in found.items()}


def seconds(ways: Mapping[str, Callable[[], object]], budget: Budget) -> dict[str, list[float]]:
    """Return each way's times, one for each interleaved repeat, after one that is not counted.

    CPU time of the process is taken, not the clock's: what a neighbour uses is not counted.
    """
    began = time.monotonic()
    for run in ways.values():
        run()
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(budget.most):
        # One more takes what those before took, the one that is not counted among them.
        spent = time.monotonic() - began
        if repeat >= budget.least and spent * (repeat + 2) / (repeat + 1) > budget.seconds:
            break
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            found[name].append(cpu_seconds(ways[name]))
    return found


def over(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each repeat."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def row(what: str, values: Sequence[float], target: float | None = None) -> Row:
    """Return the median and quartiles of the repeats; of a single one, that."""
    values = [*values, *values] if len(values) == 1 else values
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Row(what, round(middle, 4), round(low, 4), round(high, 4), target)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds that this process takes for a call."""
    began = time.process_time()
    run()
    return time.process_time() - began

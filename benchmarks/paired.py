"""Compare ways of doing the same by taking turns, so that a busy machine slows all of them alike.

Each repeat runs every way once, in an order that changes; a figure is the median over repeats of
the way's time divided by the first way's time *of the same repeat*, with the quartiles beside it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import quantiles


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: what was compared with what.
        ratio, low, high: median and quartiles.
        target: what the ratio was to stay under, if anything was promised.
    """

    what: str
    ratio: float
    low: float
    high: float
    target: float | None = None


def ratios(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return each way's time over the first one's, one for each repeat.

    CPU time of the process is taken, not the clock's: what a neighbour uses is not counted.
    """
    for run in ways.values():
        run()
    names = list(ways)
    found: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        turn = repeat % len(names)
        seconds = {name: _seconds(ways[name]) for name in names[turn:] + names[:turn]}
        for name in names:
            found[name].append(seconds[name] / seconds[names[0]])
    return found


def row(what: str, values: list[float], target: float | None = None) -> Row:
    """Return the median and quartiles of the ratios."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Row(what, round(middle, 4), round(low, 4), round(high, 4), target)


def machine() -> dict[str, object]:
    """Return what a reader needs to compare these figures with others."""
    import torch

    return {
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "peft", "bhpeft")},
    }


def _seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

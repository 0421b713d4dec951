"""Keep what was measured on this machine in small files, so that it is measured once.

A file is named by what the measurement depends on: torch's version, the processor, the threads, and
what the caller adds, such as the base's fingerprint. One that cannot be read is made again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

import torch

from bhpeft.errors import ConfigError

Found = TypeVar("Found")
Way = TypeVar("Way")

# Of the ways of measuring: what was kept of another is measured again.
EDITION = "2"

# What this process has measured or read, by the file it is kept in.
KEPT: dict[Path, Any] = {}


def kept(
    key: str, kind: Callable[..., Found], measure: Callable[[], Found], folder: Path | None = None
) -> Found:
    """Return a measurement, made on first use.

    Args:
        key: names it; see `key_of`.
        kind: the dataclass it is.
        measure: makes it.
        folder: where files are kept; `cache_folder()` by default.
    """
    path = (folder or cache_folder()) / f"{key}.json"
    if path not in KEPT:
        found = _read(path, kind)
        if found is None:
            found = measure()
            _write(path, found)
        KEPT[path] = found
    value: Found = KEPT[path]
    return value


def key_of(*parts: object) -> str:
    """Return what names a measurement of these parts on this machine."""
    told = " ".join((EDITION, *map(str, parts), _machine(), str(torch.get_num_threads())))
    return sha256(told.encode()).hexdigest()[:32]


def clock() -> float:
    """Return the seconds that runs on as many threads are compared by.

    One thread's are those it computed, whatever a neighbour took in between: one run at 128 tokens
    beside a busy core once made the explicit attention look slower than the fused one, which takes
    half as long again, and what is measured is kept.
    """
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def take_turns(
    ways: Mapping[Way, Callable[[], object]],
    best: dict[Way, float],
    now: Callable[[], float] = clock,
) -> None:
    """Run each way once more, and keep the fewest seconds of each in `best`."""
    for way, run in ways.items():
        began = now()
        run()
        best[way] = min(best[way], now() - began)


def cache_folder() -> Path:
    """Return $BHPEFT_CACHE, or bhpeft's folder in the user's cache."""
    named = os.environ.get("BHPEFT_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bhpeft"


@cache
def _machine() -> str:
    """Return what a measurement depends on besides the model."""
    return " ".join((torch.__version__, torch.backends.cpu.get_cpu_capability(), *_processor()))


def _processor() -> tuple[str, ...]:
    """Return the processor's name and flags where Linux tells them."""
    wanted = ("model name", "flags")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        import platform

        return (platform.machine(), platform.processor())
    return tuple(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _read(path: Path, kind: Callable[..., Found]) -> Found | None:
    """Return a kept measurement; None where there is none, or none that can be read."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, ConfigError):
        return None


def _write(path: Path, found: Any) -> None:
    """Keep a measurement for the next process, complete or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False) as file:
            json.dump(asdict(found), file)
        os.replace(file.name, path)
    except OSError as problem:
        # A read-only home costs a second a process, and nothing else.
        logging.getLogger(__name__).info("The measurement could not be kept: %s", problem)

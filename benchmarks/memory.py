"""Measure memory: what tensors a step allocates at most, and what a process holds at most."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks.budget import Skipped

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def step_peak(run: Callable[[], object]) -> int:
    """Return the most bytes of tensors that `run` holds beyond those there were before.

    Torch's own record of its CPU allocations is read, so the figure is exact and does not depend
    on what the allocator gives back. Run it once before: first runs allocate optimiser states.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    held = peak = 0
    events = record.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def process_peak(run: Callable[[], object]) -> int:
    """Return the most bytes the process holds while `run` runs, beyond those it held before.

    Raises:
        Skipped: the system is not Linux.
    """
    if not CLEAR.exists():
        raise Skipped("the peak of a process's memory is read from Linux's /proc")
    gc.collect()
    _trim()
    CLEAR.write_text("5", encoding="ascii")
    before = resident()
    run()
    return _kilobytes("VmHWM") * 1024 - before


def resident() -> int:
    """Return the bytes the process holds now."""
    return _kilobytes("VmRSS") * 1024


def _trim() -> None:
    """Have the allocator give back what it keeps, which is not the run's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _kilobytes(name: str) -> int:
    lines = STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

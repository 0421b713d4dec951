"""Count the CPU cores that this process may keep busy, and share them among rounds.

torch takes every core of the machine, whatever a container or a systemd unit was given and however
many rounds run beside each other; threads that outnumber their cores wait for each other at every
product of matrices.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max); cgroup-v1, cpu.cfs_quota_us.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# What the libraries below us are told by: torch, OpenBLAS and pyarrow; tokenizers.
THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")


def usable_cores(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int:
    """Return the cores this process is pinned to, or fewer where a quota of its cgroups says so.

    Args:
        groups: where cgroups are mounted.
        own: which are this process's.
    """
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min([float(pinned or 1), *_quotas(groups, own)])))


def threads_each(rounds: int) -> int:
    """Return how many threads a round has where so many may run at once."""
    return max(1, usable_cores() // rounds)


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment of a process that computes with so many; what is set there stays."""
    return {name: os.environ.get(name, str(threads)) for name in THREADS}


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Yield the cores that each cgroup of this process, and each above it, allows."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups / controllers
        inside = Path(path.lstrip("/"))
        # In a container the path may be the host's, and only the top is to be seen.
        for folder in {top / inside, *(top / above for above in inside.parents), top}:
            yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{what}_us").read_text(encoding="utf-8").strip()
                for what in ("quota", "period")
            )
    except OSError:
        return
    if quota not in ("max", "-1"):
        yield int(quota) / int(period)

"""The cores a process may use are its own, not the machine's; rounds share them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bhpeft.threads import thread_variables, threads_each, usable_cores

PINNED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A process in a unit of a slice, as systemd has them."""
    path = tmp_path / "own"
    path.write_text("0::/work.slice/bhpeft.service\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("place", ["", "work.slice", "work.slice/bhpeft.service"])
@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1), ("max", PINNED)])
def test_a_quota_anywhere_above_is_kept(
    groups: Path, own: Path, place: str, quota: str, cores: int
) -> None:
    """A container sees its own at the top, a systemd unit below it, a slice above it."""
    group(groups / place, cpu__max=f"{quota} 100000")
    assert usable_cores(groups, own) == cores


def test_the_older_kind_of_group_is_read_too(groups: Path, tmp_path: Path) -> None:
    """In a container the path is the host's and not there; the limits are at the top."""
    own = tmp_path / "own"
    own.write_text("5:memory:/docker/1\n4:cpu,cpuacct:/docker/1\n", encoding="utf-8")
    facts = {"cpu.cfs_quota_us": "30000", "cpu.cfs_period_us": "100000"}
    group(groups / "cpu,cpuacct")
    for name, text in facts.items():
        (groups / "cpu,cpuacct" / name).write_text(text, encoding="utf-8")
    assert usable_cores(groups, own) == 1
    (groups / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text("-1", encoding="utf-8")
    assert usable_cores(groups, own) == PINNED


def test_without_groups_it_is_the_cores_one_is_pinned_to(tmp_path: Path) -> None:
    assert usable_cores(tmp_path, tmp_path / "none") == PINNED


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux pins processes")
def test_a_pinned_process_has_no_more_threads_than_cores() -> None:
    """Torch by itself asks the machine where nobody told it; a round asks here."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from bhpeft.threads import usable_cores; from bhpeft.models.pace import most_threads; "
        "print(usable_cores(), most_threads())"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]


def test_rounds_share_the_cores_and_each_has_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator has set stands."""
    assert threads_each(1) == usable_cores()
    assert threads_each(10**6) == 1
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")
    assert thread_variables(3) == {"OMP_NUM_THREADS": "3", "RAYON_NUM_THREADS": "7"}

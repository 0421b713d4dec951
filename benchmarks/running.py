"""Run one benchmark in this process, or every one in a process of its own.

What is done is kept, by benchmark and by the state of the code, in `.cache/benchmarks`: a run that
was cut off goes on where it stopped, and one of unchanged code only writes the page again.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import BENCHMARKS
from benchmarks.budget import Budget, Skipped

KEPT = Path(".cache/benchmarks")

# A benchmark that takes this many times its seconds hangs, or was not written for this machine.
PATIENCE = 3.0

# One thread of everything: figures then compare the work, not how it happens to be spread.
SINGLE = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "TQDM_DISABLE": "1",
}  # fmt: skip

Found = dict[str, Any]


def one(name: str, budget: Budget) -> Found:
    """Run a benchmark here: {"name", "machine", "rows"}, and "skipped" where it could not run."""
    import torch

    from benchmarks.machine import machine

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {"name": name, "machine": machine(), "rows": []}
        with warnings.catch_warnings():
            # Peers warn about themselves; a benchmark's output is its figures.
            warnings.simplefilter("ignore")
            rows = importlib.import_module(f"benchmarks.{name}").rows(budget)
        return found | {"rows": [asdict(row) for row in rows]}
    except Skipped as reason:
        return found | {"skipped": str(reason)}
    finally:
        torch.set_num_threads(threads)


def every(results: Path, smoke: bool, seconds: float | None, say: Callable[[str], None]) -> int:
    """Run each benchmark that this code has no figures of, and write all into `results`.

    Returns:
        1 if one failed. The others' figures are written all the same.
    """
    commit, kept = commit_of(), KEPT / state_of() / ("smoke" if smoke else "full")
    kept.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, usual in BENCHMARKS.items():
        file = kept / f"{name}.json"
        if file.exists():
            say(f"{name}: kept from before")
            continue
        began = time.monotonic()
        problem = _in_a_process(name, file, smoke, usual if seconds is None else seconds)
        took = time.monotonic() - began
        say(f"{name}: {problem or 'done'} ({took:.0f} s)")
        if problem:
            failed.append(name)
            continue
        _dated(file, commit, took)
    done = [
        json.loads(path.read_text())
        for name in BENCHMARKS
        if (path := kept / f"{name}.json").exists()
    ]
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    if failed:
        say(f"failed: {', '.join(failed)}; the next run tries them again")
    return int(bool(failed))


def _in_a_process(name: str, file: Path, smoke: bool, seconds: float) -> str | None:
    """Run one benchmark, its figures into `file`, whole or not at all; return what went wrong."""
    partial, log = file.with_suffix(".partial"), file.with_suffix(".log")
    command = [sys.executable, "-m", "benchmarks", name, "--json", str(partial)]
    command += ["--smoke"] if smoke else ["--seconds", str(seconds)]
    # What is measured of the machine is measured in this run, not beside an earlier neighbour.
    settings = {**QUIET, **SINGLE, "BHPEFT_CACHE": str(file.parent.resolve() / "measured")}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **settings}
        )
        try:
            status = process.wait(timeout=max(120.0, PATIENCE * seconds))
        except subprocess.TimeoutExpired:
            return f"cut off after {PATIENCE:g} times its {seconds:g} s; see {log}"
        finally:
            # Also when this run itself is interrupted.
            process.kill()
            process.wait()
    if status != 0:
        return f"failed; see {log}"
    os.replace(partial, file)
    return None


def _dated(file: Path, commit: str, took: float) -> None:
    found = json.loads(file.read_text(encoding="utf-8"))
    found |= {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit, "seconds": round(took)}
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def commit_of() -> str:
    """Return the commit the code is at, marked where the code differs from it."""
    return _git("rev-parse", "--short=12", "HEAD").strip() + ("+" if _changes() else "")


def state_of() -> str:
    """Return what names this state of the code: the commit and a digest of what differs."""
    digest = hashlib.sha256(_changes().encode()).hexdigest()[:8]
    return f"{_git('rev-parse', '--short=12', 'HEAD').strip()}-{digest}"


def _changes() -> str:
    return _git("diff", "HEAD", "--", "bhpeft", "flows", "benchmarks")


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""

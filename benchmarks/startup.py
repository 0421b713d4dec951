"""What a command costs before it says anything: `bhpeft --help`, and `status` of 500 streams.

CPU seconds of a process of its own, imports and all. The streams have stream files as
`bhpeft init` writes them, landed batches, and versions, runs and moves in an MLflow database on
SQLite; no server runs. The first run of each, which compiles and reads from the disk, is left out.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.budget import Budget
from benchmarks.fleet import fleet
from benchmarks.paired import Row, row

NOTES = """
Importing MLflow and opening its SQL store took half of `status`. What it asks of many streams is
five plain questions, which a SQLite file of the schema we know is asked directly
(`bhpeft.registry.database`), by what only reads and is held to the client's answers by a test. A
server, and a database of another schema, is asked through MLflow. What is left is reading 500
stream files and one look into every stream's landing folder.
"""

COMMAND = Path(sys.executable).with_name("bhpeft")
# Servers of one's own, and what would keep Python from keeping what it compiled.
UNSET = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "BHPEFT_HOME", "PYTHONDONTWRITEBYTECODE")


def rows(budget: Budget) -> list[Row]:
    """Return the CPU seconds of each command."""
    streams = budget.of(500, 5)
    home = fleet(streams)
    asked = {
        "bhpeft --help: CPU s": (["--help"], 0.4),
        f"bhpeft status --json, {streams} streams: CPU s": (
            ["status", "--json", "--home", str(home)],
            2.0,
        ),
    }
    return [
        row(what, _repeated(lambda words=words: cpu_seconds_of([COMMAND, *words]), budget), most)
        for what, (words, most) in asked.items()
    ]


def _repeated(run: Callable[[], float], budget: Budget) -> list[float]:
    """Return the seconds of repeats, after one that reads all files from the disk."""
    run()
    return [run() for _ in range(budget.of(5, 1))]


def cpu_seconds_of(command: list[str | Path]) -> float:
    """Return what one command took, user and system."""
    around = {name: value for name, value in os.environ.items() if name not in UNSET}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=around, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

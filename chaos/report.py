"""Add runs up, and write them as a page a person reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

PAGE = """\
# Chaos: what was broken on purpose, and what was left

Written by `python -m chaos … --docs docs/chaos.md`; do not edit. `make chaos` runs it again, and
goes on where it stopped; a seed is the same run everywhere.

Each run tells a story (batches land, rounds learn them, a person rolls back, an alias is moved by
hand), breaks in at one place, then simply runs the story again until it is through: nobody helps.
Places are found from outside the product: every writing call to MLflow, every SQL statement and
commit, every file opened for writing or renamed, every step of a round; where servers are killed
the worker runs the real flow, and every request that changes something at Prefect is a place too.
Afterwards must hold:

1. every landed batch is learned exactly once on the champion's chain, or is pending, quarantined,
   refused or held, as in the story told undisturbed;
2. the champion is a whole version whose files have their checksums, whose model predicts and whose
   gates passed, and its chain's posteriors are, **bit for bit**, those of the undisturbed story;
3. two rounds of a stream never overlapped (where a lock was lost or nobody held one they may:
   they are fenced at commit);
4. no stale candidate won;
5. nothing is half done, every decision is in the log, and there is nothing left to repair.

**{runs} runs ({by_fault}), {kills} faults at {places} places, {violations} violations.**

{what}

{fleet}
## How watches and rounds ended meanwhile

What whoever is on call sees before the next one finishes: the state of a watch that came through,
or the error that ended it.

{endings}

## Faults by place

{table}
"""

FLEET = """\
## Two hosts, PostgreSQL, an object store

`python -m chaos.fleet`: MLflow and Prefect on PostgreSQL, artefacts and landing in an S3-compatible
store, two workers in network namespaces with folders of their own, {streams} streams of {batches}
batches in parallel, one host killed with everything on it after {killed_after_rounds} rounds.

| | |
|---|---:|
| rounds learned | {rounds} |
| processes killed | {killed_processes} |
| runs that the automation marked as crashed | {crashed_runs} |
| the last of them, after the kill | {slowest_crash_mark} s |
| until nothing was pending, after the kill, with one host left for all | {seconds_to_recover} s |
| the whole, servers and all | {seconds} s |
| violations | {violations} |

Done by second: {timeline}. The machine
was shared all the while, so no time here is a promise.

"""


def read(log: Path) -> list[dict[str, Any]]:
    """Return the runs of a log; none if there is no log."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many runs, faults by place, and every broken promise."""
    kills = Counter(name for run in runs for name in run["kills"])
    endings = Counter(name for run in runs for name in run.get("endings", ()))
    broken = [
        {"fault": run["fault"], "seed": run["seed"], "story": run["story"], "kills": run["kills"]}
        | {"found": found}
        for run in runs
        for found in run["violations"]
    ]
    by_fault = Counter(run["fault"] for run in runs)
    return {
        "runs": len(runs),
        "by_fault": dict(sorted(by_fault.items())),
        "kills": dict(sorted(kills.items())),
        "endings": dict(sorted(endings.items())),
        "violations": broken,
    }


def page(
    found: dict[str, Any],
    fleet: dict[str, Any] | None = None,
    what: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the summary as Markdown.

    Args:
        found: of `summary`.
        fleet: what a fleet came to, if one was run.
        what: each fault in a line.
    """
    beside = _beside(fleet) if fleet else ""
    return PAGE.format(
        runs=found["runs"],
        by_fault=", ".join(f"{times} {name}" for name, times in found["by_fault"].items()),
        what="\n".join(
            ["| fault | what happens | runs |", "|---|---|---:|"]
            + [
                f"| `{name}` | {line} | {found['by_fault'].get(name, 0)} |"
                for name, line in what.items()
            ]
        ),
        fleet=beside,
        kills=sum(found["kills"].values()),
        places=len(found["kills"]),
        violations=len(found["violations"]),
        endings=_table("ending", found["endings"]),
        table=_table("fault at", found["kills"]),
    )


def _table(head: str, counted: dict[str, int]) -> str:
    rows = [f"| {name} | {times} |" for name, times in counted.items()]
    return "\n".join([f"| {head} | times |", "|---|---:|", *rows])


def _beside(fleet: dict[str, Any]) -> str:
    timeline = ", ".join(f"{what} {second}" for what, second in fleet["timeline"].items())
    counted = {"violations": len(fleet["violations"]), "timeline": timeline}
    return FLEET.format(**{**fleet, **counted})

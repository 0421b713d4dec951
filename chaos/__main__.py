"""Run faults and write what was found: `python -m chaos kills zombies --runs 200`.

Runs are appended to `runs.jsonl` in the output folder and never repeated: the same command goes on
where it stopped. After each call `chaos.json` holds all runs so far, and `--docs` writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chaos import report, stories
from chaos.faults import FAULTS
from chaos.forks import ending
from chaos.stage import Stage


def main() -> int:
    """Run what the command line names; 1 if a promise was broken, 2 if nothing can run here."""
    asked = _asked()
    asked.out.mkdir(parents=True, exist_ok=True)
    able = [name for name in dict.fromkeys(asked.faults) if _able(name)]
    _begin_with({k: v for name in able for k, v in FAULTS[name].variables().items()})
    # Asked to end, it takes its folders, disks and servers along.
    signal.signal(signal.SIGTERM, ending)
    log = asked.out / "runs.jsonl"
    with ExitStack() as stack:
        stages: dict[Any, Stage] = {}
        for name in able:
            _run(name, asked, log, stack, stages)
    found = report.summary(report.read(log))
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    (asked.out / "chaos.json").write_text(text, encoding="utf-8")
    if asked.docs:
        asked.docs.with_suffix(".json").write_text(text, encoding="utf-8")
        fleet = asked.out / "fleet.json"
        beside = json.loads(fleet.read_text()) if fleet.exists() else None
        asked.docs.write_text(
            report.page(found, beside, {k: f.what for k, f in FAULTS.items()}), encoding="utf-8"
        )
    sys.stdout.write(f"{found['runs']} runs, {len(found['violations'])} violations\n")
    if found["violations"]:
        return 1
    return 0 if able or not asked.faults else 2


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--runs", type=int, default=200, help="of each fault, 200 by default")
    parser.add_argument("--seed", type=int, default=0, help="the first run's")
    parser.add_argument("--story", action="append", choices=sorted(stories.STORIES))
    parser.add_argument("--out", type=Path, default=Path(".cache/chaos"), help="for the results")
    parser.add_argument(
        "--docs", type=Path, help="write the page with the results here, and its JSON beside it"
    )
    asked = parser.parse_args()
    if unknown := sorted(set(asked.faults) - FAULTS.keys()):
        parser.error(f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return asked


def _able(name: str) -> bool:
    missing = FAULTS[name].unable()
    if missing:
        sys.stderr.write(f"{name} cannot run here: {missing}\n")
    return not missing


def _begin_with(variables: dict[str, str]) -> None:
    """Begin this program again if it was not started with these variables."""
    if variables.items() - os.environ.items():
        again = [sys.executable, "-m", "chaos", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **variables})


def _run(
    name: str, asked: argparse.Namespace, log: Path, stack: ExitStack, stages: dict[Any, Stage]
) -> None:
    """Run what is left of one fault; faults with the same stage share it."""
    fault = FAULTS[name]
    done = {(run["fault"], run["seed"]) for run in report.read(log)}
    seeds = range(asked.seed, asked.seed + asked.runs)
    left = [seed for seed in seeds if (name, seed) not in done]
    if not left:
        return
    key = fault.stage, tuple(asked.story or fault.stories)
    if key not in stages:
        stages[key] = stack.enter_context(fault.stage(list(key[1])))
    with log.open("a", encoding="utf-8") as file:
        for run in fault.runs(stages[key], left):
            line = {"fault": name, **run.as_dict()}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            sys.stdout.write(_line(line) + "\n")
            sys.stdout.flush()


def _line(run: dict[str, Any]) -> str:
    wrong = f"  VIOLATED {run['violations']}" if run["violations"] else ""
    faults = ", then ".join(map(str, run["kills"])) or "not reached"
    return f"{run['fault']} {run['seed']:>5} {run['story']}: {faults}{wrong}"


if __name__ == "__main__":
    sys.exit(main())

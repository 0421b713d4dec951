"""Run faults and write what was found: `python -m chaos kills --runs 200`.

Runs are appended to `runs.jsonl` in the output folder and never repeated: the same command goes on
where it stopped. After each call `chaos.json` holds all runs so far, and `--docs` writes the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from chaos import report, stories
from chaos.faults import FAULTS
from chaos.stage import Stage


def main() -> int:
    """Run what the command line names; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("fault", choices=sorted(FAULTS))
    parser.add_argument("--runs", type=int, default=200, help="how many in all, 200 by default")
    parser.add_argument("--seed", type=int, default=0, help="the first run's")
    parser.add_argument("--story", action="append", choices=sorted(stories.STORIES))
    parser.add_argument("--out", type=Path, default=Path(".cache/chaos"), help="for the results")
    parser.add_argument("--docs", type=Path, help="write the page with the results here")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    log = asked.out / "runs.jsonl"
    done = {(run["fault"], run["seed"]) for run in report.read(log)}
    seeds = range(asked.seed, asked.seed + asked.runs)
    left = [seed for seed in seeds if (asked.fault, seed) not in done]
    if left:
        with Stage(asked.story) as stage, log.open("a", encoding="utf-8") as file:
            for run in FAULTS[asked.fault](stage, left):
                line = {"fault": asked.fault, **run.as_dict()}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                sys.stdout.write(_line(line) + "\n")
    found = report.summary(report.read(log))
    (asked.out / "chaos.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    if asked.docs:
        fleet = asked.out / "fleet.json"
        beside = json.loads(fleet.read_text()) if fleet.exists() else None
        asked.docs.write_text(report.page(found, beside), encoding="utf-8")
    sys.stdout.write(f"{found['runs']} runs, {len(found['violations'])} violations\n")
    return 1 if found["violations"] else 0


def _line(run: dict[str, object]) -> str:
    wrong = f"  VIOLATED {run['violations']}" if run["violations"] else ""
    faults = ", then ".join(map(str, run["kills"])) or "not reached"  # type: ignore[call-overload]
    return f"{run['seed']:>5} {run['story']}: {faults}{wrong}"


if __name__ == "__main__":
    sys.exit(main())

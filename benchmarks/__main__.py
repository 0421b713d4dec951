"""Run benchmarks: `python -m benchmarks NAME --json FILE`, or `all` of them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import BENCHMARKS
from benchmarks.budget import Budget, smoke
from benchmarks.running import every, one

RESULTS = Path("docs/benchmarks.json")


def main(words: list[str] | None = None) -> int:
    """Run what the command line names; 1 if a benchmark of `all` failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=(*BENCHMARKS, "all"))
    parser.add_argument("--json", type=Path, help=f"write into this file; of all: {RESULTS}")
    parser.add_argument("--seconds", type=float, help="what one benchmark may take")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, one repeat")
    asked = parser.parse_args(words)
    if asked.name == "all":
        return every(asked.json or RESULTS, asked.smoke, asked.seconds, _say)
    budget = smoke() if asked.smoke else Budget(asked.seconds or BENCHMARKS[asked.name])
    found = one(asked.name, budget)
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _show(found)
    return 0


def _show(found: dict) -> None:
    if "skipped" in found:
        _say(f"skipped: {found['skipped']}")
    for row in found["rows"]:
        target = "" if row["target"] is None else f"  target {row['target']:g}"
        spread = f"({row['low']:.3f} to {row['high']:.3f})"
        _say(f"{row['what']:76s} {row['ratio']:7.3f} {spread}{target}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

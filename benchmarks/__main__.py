"""Run one benchmark and write what it found: `python -m benchmarks NAME --json FILE`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.paired import machine

NAMES = ("train_step",)


def main() -> None:
    """Run what the command line names, and show it as a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    parser.add_argument("--repeats", type=int, default=15, help="interleaved rounds, 15 by default")
    asked = parser.parse_args()
    rows = importlib.import_module(f"benchmarks.{asked.name}").rows(asked.repeats)
    found = {"name": asked.name, "machine": machine(), "rows": [asdict(row) for row in rows]}
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        target = "" if row.target is None else f"  target {row.target:g}"
        sys.stdout.write(
            f"{row.what:60s} {row.ratio:6.3f} ({row.low:.3f}–{row.high:.3f}){target}\n"
        )


if __name__ == "__main__":
    main()

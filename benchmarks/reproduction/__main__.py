"""Run claims and write docs/reproduction.json and .md: `python -m benchmarks.reproduction [R1 …]`.

Cells are kept in `.cache/reproduction`: a run goes on where the last one stopped. The page always
shows every claim, as far as it was run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.reproduction.cells import Cell, Kept, work_apart
from benchmarks.reproduction.everything import EVERYTHING

KEPT, RESULTS = Path(".cache/reproduction"), Path("docs/reproduction.json")


def main(words: list[str] | None = None) -> int:
    """Run what the command line names; 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.add_argument(
        "claims", nargs="*", choices=[[], *EVERYTHING], help="all, if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="one small run of everything")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--minutes", type=float, default=1e9, help="after these none is begun")
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--json", type=Path, help=f"results; {RESULTS}, or in the cache if quick")
    parser.add_argument("--page-only", action="store_true", help="run nothing, write the page")
    asked = parser.parse_args(words)
    from benchmarks.reproduction.page import write
    from benchmarks.running import QUIET, SINGLE

    os.environ.update(QUIET | SINGLE)
    kept = Kept(asked.kept / ("quick" if asked.quick else "full"))
    results = asked.json or (kept.folder / RESULTS.name if asked.quick else RESULTS)
    wrong: list[str] = []
    if not asked.page_only:
        cells = wanted(asked.claims or list(EVERYTHING), asked.quick)
        wrong = work_apart(cells, kept, 60 * asked.minutes, asked.workers)
    page = write(results, kept, asked.quick)
    sys.stdout.write("\n".join([*wrong, str(page), ""]))
    return int(bool(wrong))


def wanted(names: list[str], quick: bool) -> list[Cell]:
    """Return the cells of these claims, each once; the first seed of all before a second of any."""
    turns: dict[str, tuple[int, Cell]] = {}
    for name in names:
        for cell in EVERYTHING[name].cells(quick):
            turns.setdefault(cell.key, (EVERYTHING[name].turn * int(cell.params["seed"]), cell))
    return [cell for _, cell in sorted(turns.values(), key=lambda one: one[0])]


if __name__ == "__main__":
    sys.exit(main())

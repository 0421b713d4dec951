"""R2: the more rows, the less there is to gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.reproduction.cells import Cell
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Plot, Table
from benchmarks.reproduction.recipes import LONG, hasty, ours, recipe
from benchmarks.reproduction.said import Said, pooled
from benchmarks.reproduction.statistics import (
    Estimate,
    Statistic,
    over_rows,
    quotient_over_rows,
)

SEEDS, SIZES, TEST = (0, 1, 2), (250, 1000, 4000), 1000
# A schedule → epochs by size. Whole epochs of 4,000 rows do not come nearer to 320 steps than 500.
SCHEDULES: dict[str, dict[int, int]] = {
    "20 epochs at every size": dict.fromkeys(SIZES, LONG),
    "about as many steps at every size (20, 5 and 2 epochs)": dict(
        zip(SIZES, (LONG, 5, 2), strict=True)
    ),
}
FIRST = next(iter(SCHEDULES))

Seen = dict[int, Said]


def fits(epochs: int) -> dict[str, tuple[dict[str, Any], str]]:
    """Return both fits: recipe and reading."""
    return {
        "point": (recipe("point", epochs, tokens=32), "0"),
        "ours": (ours(epochs, tokens=32), "10"),
    }


def cells(quick: bool) -> list[Cell]:
    """Return both fits for each schedule, size and seed."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [
        _cell(fit, rows, epochs, seed, quick)
        for seed in seeds
        for schedule in ([FIRST] if quick else SCHEDULES)
        for rows, epochs in SCHEDULES[schedule].items()
        for fit in fits(epochs)
    ]


def judge(quick: bool, find: Find) -> Judged:
    """Return the ECE and NLL ratios by size, and whether the first is greater than the last."""
    criteria, tables, plots = [], [], []
    seeds: set[int] = set()
    for schedule, epochs in SCHEDULES.items():
        sides = {rows: _sides(quick, find, rows, epochs[rows]) for rows in SIZES}
        sides = {rows: found for rows, found in sides.items() if found["point"]}
        if len(sides) < len(SIZES):
            continue
        ratios = {
            name: {rows: ratio(found) for rows, found in sides.items()}
            for name, ratio in (("ECE", _ece_ratio), ("NLL", _nll_ratio))
        }
        few, many = min(sides), max(sides)
        criteria += [
            Criterion(
                f"{schedule}: {name} ratio with {few} rows ÷ with {many}",
                quotient_over_rows(ratio[few], ratio[many]),
                1.0,
            )
            for name, ratio in ratios.items()
        ]
        told = {
            name: {rows: over_rows(*one) for rows, one in ratio.items()}
            for name, ratio in ratios.items()
        }
        tables.append(_table(schedule, sides, told["ECE"], told["NLL"]))
        lines = {
            f"{name}, point ÷ ours": [[n, round(one.value, 3)] for n, one in ratio.items()]
            for name, ratio in told.items()
        }
        data = {"lines": lines, "x": "training rows", "y": "ratio", "log": True}
        plots.append(Plot("lines", f"ratio over rows, {schedule}", data))
        seeds |= set(next(iter(sides.values()))["point"]) if schedule == FIRST else set()
    return Judged(criteria, sorted(seeds), tables, plots)


def _cell(fit: str, rows: int, epochs: int, seed: int, quick: bool) -> Cell:
    made, reading = fits(epochs)[fit]
    test = TEST
    if quick:
        rows, test = rows // 10, 60
        made = hasty(made, 1, 0.5)
    asked = {"set": "mpqa", "seed": seed, "train": rows, "test": test, "recipe": made}
    return Cell("batch", {**asked, "readings": [reading]})


def _sides(quick: bool, find: Find, rows: int, epochs: int) -> dict[str, Seen]:
    found: dict[str, Seen] = {fit: {} for fit in fits(epochs)}
    for seed in SEEDS:
        both = {fit: find(_cell(fit, rows, epochs, seed, quick)) for fit in found}
        for fit, result in both.items():
            if result is not None and all(both.values()):
                found[fit][seed] = Said.of(result["readings"][fits(epochs)[fit][1]]["test"])
    return found


def _ece_ratio(found: Mapping[str, Seen]) -> tuple[Statistic, int]:
    point, mine = (pooled(list(found[fit].values())) for fit in ("point", "ours"))

    def ratio(counts: np.ndarray) -> np.ndarray:
        # Of a few rows an ECE can be 0, and a ratio of nothing.
        above, below = (np.maximum(side.ece(counts), 1e-4) for side in (point, mine))
        return np.asarray(above / below)

    return ratio, len(mine.nll)


def _nll_ratio(found: Mapping[str, Seen]) -> tuple[Statistic, int]:
    point, mine = (pooled(list(found[fit].values())) for fit in ("point", "ours"))

    def ratio(counts: np.ndarray) -> np.ndarray:
        return np.asarray((counts @ point.nll) / (counts @ mine.nll))

    return ratio, len(mine.nll)


def _table(
    schedule: str,
    sides: Mapping[int, Mapping[str, Seen]],
    ece: Mapping[int, Estimate],
    nll: Mapping[int, Estimate],
) -> Table:
    rows = []
    for size, found in sides.items():
        point, mine = (pooled(list(found[fit].values())) for fit in ("point", "ours"))
        ones = np.ones((1, len(mine.nll)))
        rows.append(
            [
                size,
                f"{100 * point.right.mean():.1f} / {100 * mine.right.mean():.1f}",
                f"{point.ece(ones)[0]:.3f} / {mine.ece(ones)[0]:.3f}",
                f"{ece[size].value:.2f} ({ece[size].spread})",
                f"{point.nll.mean():.3f} / {mine.nll.mean():.3f}",
                f"{nll[size].value:.2f} ({nll[size].spread})",
                len(found["point"]),
            ]
        )
    columns = [
        "rows", "accuracy, %, point / ours", "ECE, point / ours", "ratio (95 % over rows)",
        "NLL, point / ours", "ratio (95 % over rows)", "seeds",
    ]  # fmt: skip
    return Table(f"MPQA phrases, {schedule}", columns, rows)


R2 = Claim(
    name="R2",
    title="The gain fades with the number of rows",
    claim="A posterior matters most where rows are few: what the point estimate is overconfident "
    "by falls with N (the method's own claim).",
    target="ECE and NLL of the point estimate over ours fall from the fewest to the most rows.",
    about="Phrases of MPQA (one to ten words, so that 4,000 rows can be paid), 20 epochs at every "
    "size, and in about as many steps at every size. Intervals resample rows, those of both fits "
    "paired, those of two sizes each on its own.",
    cells=cells,
    judge=judge,
    turn=3,
    tried="With as many epochs the NLL ratio does not fall: those are more steps over more rows, "
    "and a point estimate that goes on that long is as sure of its errors with 4,000 rows as with "
    "250. In as many steps both ratios fall to 1: with 4,000 rows there is nothing left to take "
    "out.",
)

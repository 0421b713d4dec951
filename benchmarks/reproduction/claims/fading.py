"""R2: the more rows, the less there is to gain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.reproduction.cells import Cell
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Plot, Table
from benchmarks.reproduction.recipes import hasty, ours, recipe
from benchmarks.reproduction.said import Said, pooled
from benchmarks.reproduction.statistics import Estimate, over_rows, quotient

SEEDS, SIZES, TEST = (0, 1, 2), (250, 1000, 4000), 1000
FITS = {"point": (recipe("point", tokens=32), "0"), "ours": (ours(tokens=32), "10")}

Seen = dict[int, Said]


def cells(quick: bool) -> list[Cell]:
    """Return both fits for each size and seed."""
    seeds = SEEDS[:1] if quick else SEEDS
    return [_cell(fit, rows, seed, quick) for seed in seeds for rows in SIZES for fit in FITS]


def judge(quick: bool, find: Find) -> Judged:
    """Return the ECE and NLL ratios by size, and whether the first is greater than the last."""
    sides = {rows: _sides(quick, find, rows) for rows in SIZES}
    sides = {rows: found for rows, found in sides.items() if found["point"]}
    if len(sides) < 2:
        return Judged()
    ece = {rows: _ece_ratio(found) for rows, found in sides.items()}
    nll = {rows: _nll_ratio(found) for rows, found in sides.items()}
    few, many = min(sides), max(sides)
    criteria = [
        Criterion(
            f"{name} ratio with {few} rows ÷ with {many}",
            quotient(ratio[few], ratio[many]),
            1.0,
        )
        for name, ratio in (("ECE", ece), ("NLL", nll))
    ]
    table = _table(sides, ece, nll)
    lines = {
        "ECE, point ÷ ours": [[n, round(ece[n].value, 3)] for n in sides],
        "NLL, point ÷ ours": [[n, round(nll[n].value, 3)] for n in sides],
    }
    data = {"lines": lines, "x": "training rows", "y": "ratio", "log": True}
    seeds = sorted(next(iter(sides.values()))["point"])
    return Judged(criteria, seeds, [table], [Plot("lines", "ratio over rows", data)])


def _cell(fit: str, rows: int, seed: int, quick: bool) -> Cell:
    made, reading = FITS[fit]
    test = TEST
    if quick:
        rows, test = rows // 10, 60
        made = hasty(made, 1, 0.5)
    asked = {"set": "mpqa", "seed": seed, "train": rows, "test": test, "recipe": made}
    return Cell("batch", {**asked, "readings": [reading]})


def _sides(quick: bool, find: Find, rows: int) -> dict[str, Seen]:
    found: dict[str, Seen] = {fit: {} for fit in FITS}
    for seed in SEEDS:
        both = {fit: find(_cell(fit, rows, seed, quick)) for fit in FITS}
        for fit, result in both.items():
            if result is not None and all(both.values()):
                found[fit][seed] = Said.of(result["readings"][FITS[fit][1]]["test"])
    return found


def _ece_ratio(found: Mapping[str, Seen]) -> Estimate:
    point, mine = (pooled(list(found[fit].values())) for fit in ("point", "ours"))

    def ratio(counts: np.ndarray) -> np.ndarray:
        # Of a few rows an ECE can be 0, and a ratio of nothing.
        above, below = (np.maximum(side.ece(counts), 1e-4) for side in (point, mine))
        return np.asarray(above / below)

    return over_rows(ratio, len(mine.nll))


def _nll_ratio(found: Mapping[str, Seen]) -> Estimate:
    point, mine = (pooled(list(found[fit].values())) for fit in ("point", "ours"))

    def ratio(counts: np.ndarray) -> np.ndarray:
        return np.asarray((counts @ point.nll) / (counts @ mine.nll))

    return over_rows(ratio, len(mine.nll))


def _table(
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
    return Table("MPQA phrases", columns, rows)


R2 = Claim(
    name="R2",
    title="The gain fades with the number of rows",
    claim="A posterior matters most where rows are few: what the point estimate is overconfident "
    "by falls with N (the method's own claim).",
    target="ECE and NLL of the point estimate over ours fall from the fewest to the most rows.",
    about="Phrases of MPQA (one to ten words, so that 4,000 rows can be paid), 20 epochs at every "
    "size. Intervals resample rows, paired; those of two sizes are put end to end, which is wide.",
    cells=cells,
    judge=judge,
    turn=3,
    tried="The NLL ratio does not fall: as many epochs are more steps over more rows, and a point "
    "estimate that goes on that long is as sure of its errors with 4,000 rows as with 250. Fewer "
    "epochs for more rows were not tried.",
)

"""A5: ρ where nothing drifts: what forgetting costs a stream that stays the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.reproduction.ablations.settings import sentence, verdict
from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Plot, Table
from benchmarks.reproduction.recipes import SHORT, SWIFT, hasty, ours
from benchmarks.reproduction.statistics import (
    difference_over_seeds,
    over_rounds,
    over_seeds,
)

SEEDS, ROUNDS, ROWS, TEST = (0, 1, 2), 5, 120, 400
MADE = ours(SHORT, plan=SWIFT, least_steps=56)
# A setting → the strategy and its settings; the first one is the default.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "ρ = 1": ("ours", {}),
    "ρ = 0.9": ("ours", {"rho": 0.9}),
    "ρ = 0.7": ("ours", {"rho": 0.7}),
    "adaptive, ρ of 1 or 0": ("adaptive", {"drifted": 0.0}),
}
DEFAULT = "ρ = 1"


def cells(quick: bool) -> list[Cell]:
    """Return one cell for each way and seed."""
    seeds, ways = (SEEDS[:1], list(WAYS)[:2]) if quick else (SEEDS, list(WAYS))
    return [_cell(way, seed, quick) for seed in seeds for way in ways]


def judge(quick: bool, find: Find) -> Judged:
    """Return NLL and accuracy of each way over the rounds, paired by seed."""
    seen = {
        way: {s: found for s in SEEDS if (found := find(_cell(way, s, quick))) is not None}
        for way in WAYS
    }
    seen = {way: found for way, found in seen.items() if found}
    if DEFAULT not in seen or len(seen) < 2:
        return Judged()
    gaps = {}
    for way, found in seen.items():
        seeds = sorted(set(found) & set(seen[DEFAULT]))
        sides = ([_mean(side[s], "nll") for s in seeds] for side in (found, seen[DEFAULT]))
        if way != DEFAULT and seeds:
            gaps[way] = difference_over_seeds(*sides)
    criteria = [
        Criterion(f"NLL of {way} − of {DEFAULT}, mean over rounds, nats", gap, 0.0, decides=False)
        for way, gap in gaps.items()
    ]
    rows = [_row(way, found) for way, found in seen.items()]
    columns = ["", "accuracy, %, mean over rounds", "NLL, mean over rounds", "NLL, last", "seeds"]
    table = Table(f"{ROUNDS} rounds of {ROWS} phrases of MPQA", columns, rows)
    plot = Plot(
        "lines",
        "NLL over rounds without drift",
        {"lines": over_rounds(seen, _nll), "x": "round", "y": "NLL"},
    )
    return Judged(
        criteria, sorted(seen[DEFAULT]), [table], [plot], [sentence(DEFAULT, gaps)], verdict(gaps)
    )


def _cell(way: str, seed: int, quick: bool) -> Cell:
    strategy, settings = WAYS[way]
    rounds, rows, test, made = ROUNDS, ROWS, TEST, MADE
    if quick:
        rounds, rows, test, made = 2, 24, 24, hasty(MADE, 2, 0.2)
    asked = {
        "strategy": strategy, "settings": settings, "seed": seed, "selected": 0.2,
        "batches": [{"set": "mpqa", "rows": rows}] * rounds,
        "tests": [{"name": "mpqa", "set": "mpqa", "rows": test}], "recipe": made, "draws": 8,
    }  # fmt: skip
    return Cell("rounds", asked)


def _over_rounds(result: Result, figure: str) -> list[float]:
    return [float(one["tests"]["mpqa"][figure]) for one in result["rounds"]]


def _mean(result: Result, figure: str) -> float:
    return float(np.mean(_over_rounds(result, figure)))


def _row(way: str, found: dict[int, Result]) -> list[str]:
    accuracy, nll = (over_seeds([_mean(r, f) for r in found.values()]) for f in ("accuracy", "nll"))
    last = over_seeds([_over_rounds(r, "nll")[-1] for r in found.values()])
    return [
        f"**{way}**" if way == DEFAULT else way, f"{100 * accuracy.value:.1f}",
        f"{nll.value:.3f} ({nll.spread})", f"{last.value:.3f} ({last.spread})", str(len(found)),
    ]  # fmt: skip


def _nll(result: Result) -> list[float]:
    return _over_rounds(result, "nll")


A5 = Claim(
    name="A5",
    title="ρ where nothing drifts",
    claim="What forgetting costs a stream whose rows stay the same; what it gains where they "
    "change is R6.",
    target="1, `learning.forgetting`; adaptive only where the file says so.",
    about=f"{ROUNDS} rounds of {ROWS} rows of one corpus, a fifth of them kept to choose ρ by, "
    f"whatever the way; at least {MADE['least_steps']} steps a round; 8 draws; {TEST} test rows.",
    cells=cells,
    judge=judge,
    kind="ablation",
)

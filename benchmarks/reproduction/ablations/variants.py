"""A6: the variants at equal cost, from R1's cells: the same rows, steps and test rows."""

from __future__ import annotations

from benchmarks.reproduction.ablations.settings import compared
from benchmarks.reproduction.cells import Cell
from benchmarks.reproduction.claim import Claim, Find, Judged
from benchmarks.reproduction.claims.overconfidence import (
    APART,
    LATER,
    OURS,
    ROWS,
    SETS,
    ways_of,
)
from benchmarks.reproduction.claims.overconfidence import cells as cells_of_r1

HEADS = {"ours, 10 draws": OURS, "ours with a point head": "ours with a point head"}
DEFAULT = "ours, 10 draws"


def cells(quick: bool) -> list[Cell]:
    """Return R1's cells: this is another look at them."""
    return cells_of_r1(quick)


def judge(quick: bool, find: Find) -> Judged:
    """Return every way at equal cost beside ours, over the sets where each was run."""
    ways: dict[str, dict[tuple[str, int], object]] = {}
    whole = [name for name, trial in SETS.items() if trial.later == LATER]
    for name in ["trec6"] if quick else whole:
        for way, seen in ways_of(quick, find, name).items():
            told = next((told for told, of in HEADS.items() if of == way), way)
            if told in HEADS or way not in APART:
                pairs = {(name, seed): said for seed, said in seen.items()}
                ways.setdefault(told, {}).update(pairs)
    return compared(ways, DEFAULT, f"{ROWS} training rows")


A6 = Claim(
    name="A6",
    title="Variants at equal cost",
    claim="Which way of being Bayesian, or of doing without, predicts best after as many steps.",
    target="`bh_peft`; `bh_peft_head` (ours on this page) where classes are few.",
    about="R1's cells, over the sets where the point estimate over-fits.",
    cells=cells,
    judge=judge,
    kind="ablation",
)

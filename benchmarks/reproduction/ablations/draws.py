"""A3: how many draws a prediction averages over, of the same posteriors."""

from __future__ import annotations

from benchmarks.reproduction.ablations.recipes import (
    HOW,
    PARAMETERISATION,
    READINGS,
    ROWS,
)
from benchmarks.reproduction.ablations.settings import compared
from benchmarks.reproduction.cells import Cell
from benchmarks.reproduction.claim import Claim, Find, Judged
from benchmarks.reproduction.said import Said

DEFAULT = "8"


def cells(quick: bool) -> list[Cell]:
    """Return the base's cells, one for each set and seed."""
    every = PARAMETERISATION.cells(quick)
    return [cell for cell in every if set(cell.params["readings"]) == set(READINGS)]


def judge(quick: bool, find: Find) -> Judged:
    """Return every number of draws beside the default one."""
    found = PARAMETERISATION.found(quick, find, PARAMETERISATION.default)
    seen = {
        _told(draws): {pair: Said.of(one["readings"][draws]["test"]) for pair, one in found.items()}
        for draws in READINGS
    }
    return compared(seen, _told(DEFAULT), f"{ROWS} training rows")


def _told(draws: str) -> str:
    return {"0": "mean weights", "1": "1 draw"}.get(draws, f"{draws} draws")


A3 = Claim(
    name="A3",
    title="Number of draws",
    claim="How many fixed draws a prediction averages over; an even number is antithetic.",
    target="8, `prediction.draws`.",
    about=f"{HOW} The same trained posteriors for every number.",
    cells=cells,
    judge=judge,
    kind="ablation",
)

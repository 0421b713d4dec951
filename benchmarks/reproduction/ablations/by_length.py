"""Put settings of a first round beside each other at several lengths: rows, and passes over them.

Another minibatch or another rate matters as much as a round is short, so each length is a table of
its own, and what is sure of it is said with its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.reproduction.ablations.settings import (
    Pair,
    compared,
    gaps_in_nll,
    said_by,
    training_seconds,
    verdict,
)
from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.claim import Criterion, Find, Judged
from benchmarks.reproduction.recipes import hasty
from benchmarks.reproduction.statistics import Estimate

SEEDS, SETS, TEST, READ = (0, 1, 2), ("mpqa", "sentences", "movie"), 300, "8"
# How far rho's rate has to add up, over the steps: σ goes 3 nats from 0.005 and wants one to spare.
RHO_SUM = 8.0


@dataclass(frozen=True)
class Length:
    """How long a round is, and the settings that are compared at it.

    Attributes:
        name: told on the page, as "96 steps".
        about: said of it in the table's title.
        rows: how many it learns.
        ways: setting → recipe, the default first.
    """

    name: str
    about: str
    rows: int
    ways: Mapping[str, Mapping[str, Any]]

    @property
    def default(self) -> str:
        """Return the setting the others stand beside."""
        return next(iter(self.ways))

    def cell(self, way: str, name: str, seed: int, quick: bool) -> Cell:
        """Return the cell of one setting."""
        made, sizes = dict(self.ways[way]), {"train": self.rows, "test": TEST}
        if quick:
            made, sizes = hasty(made, 3, 0.3), {"train": 32, "test": 40}
        asked = {"set": name, "seed": seed, **sizes, "recipe": made, "readings": [READ]}
        return Cell("batch", asked)

    def results(self, quick: bool, find: Find) -> dict[str, dict[Pair, Result]]:
        """Return what was run, by setting, set and seed."""
        pairs = [(name, seed) for name in SETS for seed in SEEDS]
        every = {
            way: {pair: find(self.cell(way, *pair, quick)) for pair in pairs} for way in self.ways
        }
        return {
            way: {pair: one for pair, one in found.items() if one is not None}
            for way, found in every.items()
        }


def cells(lengths: Sequence[Length], quick: bool) -> list[Cell]:
    """Return one cell for each setting, set and seed, the shortest rounds first."""
    seeds, sets, count = SEEDS, SETS, None
    if quick:
        seeds, sets, lengths, count = SEEDS[:1], SETS[:1], lengths[:1], 2
    return [
        length.cell(way, name, seed, quick)
        for seed in seeds
        for length in lengths
        for name in sets
        for way in list(length.ways)[:count]
    ]


def judge(lengths: Sequence[Length], quick: bool, find: Find, timed: bool = False) -> Judged:
    """Return a table for each length, and what is sure over all of them.

    Args:
        lengths: with their settings.
        quick: as `cells` was told.
        find: returns a cell's result.
        timed: whether settings differ in what a training costs.
    """
    parts: list[Judged] = []
    criteria: list[Criterion] = []
    gaps: dict[str, Estimate] = {}
    for length in lengths[:1] if quick else lengths:
        results = length.results(quick, find)
        seen = said_by(results, READ)
        title = f"{length.name}: {length.about}, {READ} draws"
        seconds = training_seconds(results) if timed else None
        part = compared(seen, length.default, title, seconds)
        if part.criteria:
            parts.append(part)
            criteria += [replace(one, what=f"{length.name}: {one.what}") for one in part.criteria]
            found = gaps_in_nll(seen, length.default)
            gaps |= {f"{way}, {length.name}": gap for way, gap in found.items()}
    if not parts:
        return Judged()
    return Judged(
        criteria=criteria,
        seeds=sorted({seed for part in parts for seed in part.seeds}),
        tables=[table for part in parts for table in part.tables],
        said=[sentence for part in parts for sentence in part.said],
        concluded=verdict(gaps),
    )

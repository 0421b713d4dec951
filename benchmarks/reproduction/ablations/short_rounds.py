"""A8: what a first round learns in few steps: its rate, where σ starts, the head.

The optimiser's rates are written out, as in A1: what is compared here stays what was measured when
the library's defaults move. rho's is such that σ can go its way in each number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.reproduction.ablations.settings import compared, gaps_in_nll, verdict
from benchmarks.reproduction.cells import Cell
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged
from benchmarks.reproduction.recipes import HEAD_STD, hasty, recipe
from benchmarks.reproduction.said import Said
from benchmarks.reproduction.statistics import Estimate

SEEDS, SETS, TEST, READ = (0, 1, 2), ("mpqa", "sentences", "movie"), 300, "8"
# How far rho's rate has to add up, over the steps: σ goes 3 nats from 0.005 and wants one to spare.
RHO_SUM = 8.0
DEFAULT = "the rule"


@dataclass(frozen=True)
class Length:
    """How long a round is.

    Attributes:
        steps: of 16 rows.
        rows, epochs: that make as many.
        rule: the library's rate for them.
        other: another rate beside it.
    """

    steps: int
    rows: int
    epochs: int
    rule: float
    other: float

    def made(self, variant: str = "bh_peft", rate: float = 0.0, **more: Any) -> dict[str, Any]:
        """Return a recipe of so many steps, at the rule's rate if none is named."""
        rates = {
            "learning_rate": rate or self.rule,
            "rho_learning_rate": round(RHO_SUM / self.steps, 4),
        }
        return recipe(variant, self.epochs, plan=rates, **more)

    @property
    def ways(self) -> dict[str, dict[str, Any]]:
        """Return setting → recipe."""
        return {
            DEFAULT: self.made(),
            "another rate": self.made(rate=self.other),
            "σ from 0.005": self.made(changes={"start_std": [0.005, 0.005]}),
            "Gaussian head": self.made(head_std=HEAD_STD),
            "point estimate, 2e-3": self.made("point", 2e-3),
        }

    def told(self, way: str) -> str:
        """Return a setting's name with the rate it has here."""
        rates = {DEFAULT: self.rule, "another rate": self.other}
        return f"{way}: {rates[way]:.2g}" if way in rates else way

    def cell(self, way: str, name: str, seed: int, quick: bool) -> Cell:
        """Return the cell of one setting."""
        made, sizes = self.ways[way], {"train": self.rows, "test": TEST}
        if quick:
            made, sizes = hasty(made, 3, 0.3), {"train": 32, "test": 40}
        asked = {"set": name, "seed": seed, **sizes, "recipe": made, "readings": [READ]}
        return Cell("batch", asked)

    def seen(self, quick: bool, find: Find) -> dict[str, dict[tuple[str, int], Said]]:
        """Return what was run, by setting, set and seed."""
        found = {
            (way, name, seed): find(self.cell(way, name, seed, quick))
            for way in self.ways
            for name in SETS
            for seed in SEEDS
        }
        kept: dict[str, dict[tuple[str, int], Said]] = {self.told(way): {} for way in self.ways}
        for (way, *pair), one in found.items():
            if one is not None:
                kept[self.told(way)][(pair[0], pair[1])] = Said.of(one["readings"][READ]["test"])
        return {way: pairs for way, pairs in kept.items() if pairs}


LENGTHS = (
    Length(40, 160, 4, rule=1e-2, other=2e-3),
    Length(96, 384, 4, rule=4.2e-3, other=2e-3),
    Length(320, 320, 16, rule=2e-3, other=5e-3),
    Length(640, 512, 20, rule=2e-3, other=5e-3),
)


def cells(quick: bool) -> list[Cell]:
    """Return one cell for each setting, set and seed, the shortest rounds first."""
    seeds, sets, lengths, count = SEEDS, SETS, LENGTHS, None
    if quick:
        seeds, sets, lengths, count = SEEDS[:1], SETS[:1], LENGTHS[:1], 2
    return [
        length.cell(way, name, seed, quick)
        for seed in seeds
        for length in lengths
        for name in sets
        for way in list(length.ways)[:count]
    ]


def judge(quick: bool, find: Find) -> Judged:
    """Return a table for each number of steps, and what is sure over all of them."""
    parts: list[Judged] = []
    criteria: list[Criterion] = []
    gaps: dict[str, Estimate] = {}
    for length in LENGTHS[:1] if quick else LENGTHS:
        seen, default = length.seen(quick, find), length.told(DEFAULT)
        title = f"{length.steps} steps: {length.rows} rows, {length.epochs} epochs, {READ} draws"
        part = compared(seen, default, title)
        if part.criteria:
            parts.append(part)
            criteria += [
                replace(one, what=f"{length.steps} steps: {one.what}") for one in part.criteria
            ]
            found = gaps_in_nll(seen, default)
            gaps |= {f"{way}, {length.steps} steps": gap for way, gap in found.items()}
    if not parts:
        return Judged()
    return Judged(
        criteria=criteria,
        seeds=sorted({seed for part in parts for seed in part.seeds}),
        tables=[table for part in parts for table in part.tables],
        said=[sentence for part in parts for sentence in part.said],
        concluded=verdict(gaps),
    )


A8 = Claim(
    name="A8",
    title="Short rounds",
    claim="How fast a first round of few steps learns, by the rate of its means, where σ starts "
    "and what of it is Gaussian.",
    target="0.4 / steps in rounds of 40 to 200 steps and 2e-3 otherwise (`Plan.rate_of_means`), σ "
    "from 0.02, a point head.",
    about=f"LoRA of rank 8 on the top two layers, λ = 0.3, a point head unless said otherwise; "
    f"minibatches of 16; rho's rate is {RHO_SUM:g} over the steps; {TEST} test rows.",
    cells=cells,
    judge=judge,
    kind="ablation",
)

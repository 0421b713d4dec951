"""A1, A2, A4 and A7: another parameterisation, λ, number of layers or head, all else the same.

The optimiser's rates are written out: what is compared here stays what was measured when the
library's defaults move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reproduction.ablations.settings import compared, said_by, training_seconds
from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.claim import Claim, Find, Judged
from benchmarks.reproduction.recipes import HEAD_STD, LONG, hasty, ours, recipe

SEEDS = (0, 1, 2)
TWO_CLASSES, SIX_CLASSES = ("mpqa", "sentences", "movie"), ("trec6",)
ROWS, TEST = 300, 400
# The base has them on two sets, so that how many draws are wanted (A3) costs no training.
READINGS = ("0", "1", "2", "3", "5", "8", "10", "20", "40")
READ = "10"
# The sets of A3.
READ_OFTEN = ("mpqa", "sentences")
RATES = {"learning_rate": 2e-3, "rho_learning_rate": 2e-2}
BASE = ours(LONG, plan=RATES)
HOW = (
    f"LoRA of rank 8 with a Gaussian head on the top two layers, λ = 0.3, unless said otherwise; "
    f"{ROWS} training and {TEST} test rows, {LONG} epochs at rates of 2e-3 and 2e-2, {READ} draws."
)


@dataclass(frozen=True)
class Settings:
    """One thing that differs.

    Attributes:
        ways: setting → recipe; the first one is what the others are put beside.
        sets: corpora.
    """

    ways: Mapping[str, dict[str, Any]]
    sets: tuple[str, ...] = TWO_CLASSES
    base: dict[str, Any] = field(default_factory=lambda: BASE)

    @property
    def default(self) -> str:
        """Return the setting the others are put beside."""
        return next(iter(self.ways))

    def cells(self, quick: bool) -> list[Cell]:
        """Return one cell for each setting, set and seed."""
        seeds, sets, ways = SEEDS, self.sets, list(self.ways)
        if quick:
            seeds, sets, ways = SEEDS[:1], self.sets[:1], ways[:2]
        return [self.cell(w, name, s, quick) for s in seeds for name in sets for w in ways]

    def cell(self, way: str, name: str, seed: int, quick: bool) -> Cell:
        """Return the cell of one setting; the base's is read with every number of draws."""
        made, sizes = self.ways[way], {"train": ROWS, "test": TEST}
        often = made == self.base and name in READ_OFTEN
        readings = READINGS if often else (READ,)
        if quick:
            sizes, made = {"train": 32, "test": 40}, hasty(made, 3, 0.2)
        asked = {"set": name, "seed": seed, **sizes, "recipe": made, "readings": list(readings)}
        return Cell("batch", asked)

    def found(self, quick: bool, find: Find, way: str) -> dict[tuple[str, int], Result]:
        """Return what was run of one setting, by set and seed."""
        every = {
            (name, seed): find(self.cell(way, name, seed, quick))
            for name in self.sets
            for seed in SEEDS
        }
        return {pair: result for pair, result in every.items() if result is not None}

    def judge(self, quick: bool, find: Find) -> Judged:
        """Return every setting beside the first."""
        results = {way: self.found(quick, find, way) for way in self.ways}
        seen, seconds = said_by(results, READ), training_seconds(results)
        return compared(seen, self.default, f"{ROWS} training rows, {READ} draws", seconds)


def _ablation(name: str, title: str, question: str, stands: str, settings: Settings) -> Claim:
    return Claim(
        name=name, title=title, claim=question, target=stands, about=HOW,
        cells=settings.cells, judge=settings.judge, kind="ablation",
    )  # fmt: skip


def _head(variant: str, **more: Any) -> dict[str, Any]:
    return recipe(variant, LONG, plan=RATES, **{"head_std": HEAD_STD, **more})


PARAMETERISATION = Settings(
    {
        "blob (A, with B a point)": BASE,
        "linear (B, with A frozen)": _head("bh_peft_linear"),
        "core (r × r between frozen factors)": _head("bh_peft_core"),
    }
)
LAMBDA = Settings(
    {
        "λ = 0.3": BASE,
        "λ = 0.1": _head("bh_peft", changes={"kl_weight": 0.1}),
        "λ = 1": _head("bh_peft", changes={"kl_weight": 1.0}),
    }
)
LAYERS = Settings(
    {
        "top 2 of 6 layers": BASE,
        "top 3 layers": _head("bh_peft", layers=3),
        "all 6 layers": _head("bh_peft", layers=0),
    }
)
HEAD = Settings(
    {"Gaussian head": BASE, "point head": _head("bh_peft", head_std=0.0)},
    sets=(*TWO_CLASSES, *SIX_CLASSES),
)

A1 = _ablation(
    "A1",
    "Parameterisation",
    "Which factor of a low-rank map has the posterior.",
    "`blob`, the default of every variant that names none.",
    PARAMETERISATION,
)
A2 = _ablation(
    "A2",
    "λ, the weight of the KL",
    "How much the prior counts; 1 is Bayes, less is a colder posterior.",
    "0.3, `kl_weight` of `bh_peft`.",
    LAMBDA,
)
A4 = _ablation(
    "A4",
    "Layers adapted",
    "How many of the top layers are adapted; those below are frozen, and run once a text.",
    "All layers in the library (`adapted_layers`), the top two on this page.",
    LAYERS,
)
A7 = _ablation(
    "A7",
    "Gaussian or point head",
    "Whether the classifier's head has a posterior.",
    "A point (`bh_peft`); with two classes `bh_peft_head`.",
    HEAD,
)

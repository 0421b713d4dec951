"""R7: tasks that share a population prior, and a τ that is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peers.problem import SMOLLM2
from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Plot, Table
from benchmarks.reproduction.corpora import READERS, SPEAKERS
from benchmarks.reproduction.recipes import hasty, recipe
from benchmarks.reproduction.statistics import difference_over_seeds, over_seeds, ratio_over_seeds

ENDS = ("alone", "pooled", "learned")


@dataclass(frozen=True)
class Group:
    """Tasks that are learned side by side.

    Attributes:
        told: what they are.
        sets: a corpus each.
        train, test: rows of each.
        grid: the fixed τ.
        recipe: how they learn.
        seeds: that are run.
        draws: of a prediction.
        decides: whether the verdict hangs on them.
        unit: what the perplexity is of.
    """

    told: str
    sets: tuple[str, ...]
    train: int
    test: int
    grid: tuple[int, ...]
    recipe: dict[str, Any]
    seeds: tuple[int, ...] = (0, 1, 2)
    draws: int = 6
    decides: bool = True
    unit: str = "a label"

    @property
    def taus(self) -> list[str | int]:
        """Return every τ that is tried."""
        return ["alone", *self.grid, "pooled", "learned"]


GROUPS: dict[str, Group] = {
    "readers": Group(
        "Six readers of three corpora who draw the line between good and bad elsewhere",
        tuple(READERS), 48, 100, (100, 1000),
        recipe("bora", 30, tokens=32, plan={"rho_learning_rate": 0.12}),
        draws=4,
    ),
    "readers, λ = 1": Group(
        "The same six readers under λ = 1",
        tuple(READERS), 48, 100, (100, 1000),
        recipe("bora", 30, tokens=32, plan={"rho_learning_rate": 0.12}, changes={"kl_weight": 1.0}),
        draws=4, seeds=(0,), decides=False,
    ),
    "domains": Group(
        "Eight domains that ask nearly the same question",
        ("movie", "nyt", "tweets", "amazon", "uci_amazon", "uci_imdb", "uci_yelp", "mpqa"),
        48, 100, (10, 100, 1000, 10000),
        recipe("bora", 48, plan={"rho_learning_rate": 0.12}),
        seeds=(0,), decides=False,
    ),
    "speakers": Group(
        "Language models of presidents' speeches: SmolLM2-135M, its top two layers",
        tuple(SPEAKERS), 20, 20, (1000,),
        recipe("bora", 6, base=SMOLLM2, task="causal_lm", tokens=40,
               plan={"learning_rate": 1e-2, "rho_learning_rate": 0.4, "batch_size": 5}),
        seeds=(0,), draws=0, decides=False, unit="a token",
    ),
}  # fmt: skip
# What CI can pay: the first group, and two of its tasks.
QUICK = {"train": 16, "test": 16, "draws": 2, "taus": ["alone", 100, "pooled", "learned"]}


def cells(quick: bool) -> list[Cell]:
    """Return one cell a group and seed."""
    groups = list(GROUPS)[:1] if quick else list(GROUPS)
    return [
        _cell(name, seed, quick)
        for name in groups
        for seed in (GROUPS[name].seeds[:1] if quick else GROUPS[name].seeds)
    ]


def judge(quick: bool, find: Find) -> Judged:
    """Return perplexity over τ, and what learning τ gains, of each group."""
    criteria, tables, plots = [], [], []
    seeds: set[int] = set()
    for name, group in GROUPS.items():
        seen = {s: found for s in group.seeds if (found := find(_cell(name, s, quick))) is not None}
        if not seen:
            continue
        taus = list(next(iter(seen.values()))["taus"])
        ppl = {tau: [_perplexity(found, tau) for found in seen.values()] for tau in taus}
        grid = [tau for tau in taus if tau not in ENDS]
        criteria += _criteria(name, group, ppl, grid)
        tables.append(_table(group, seen, ppl))
        plots.append(_plot(name, group, grid, ppl))
        seeds |= set(seen) if group.decides else set()
    return Judged(criteria, sorted(seeds), tables, plots)


def _criteria(
    name: str, group: Group, ppl: Mapping[str, list[float]], grid: list[str]
) -> list[Criterion]:
    best = min(grid, key=lambda tau: np.mean(np.log(ppl[tau])))
    better_end = [min(a, b) for a, b in zip(ppl["alone"], ppl["pooled"], strict=True)]
    inside = difference_over_seeds(np.log(better_end).tolist(), np.log(ppl[best]).tolist())
    told = [
        ("perplexity alone ÷ with learned τ", "alone", "learned", 1.05, True),
        ("perplexity pooled ÷ with learned τ", "pooled", "learned", 1.02, True),
        (f"learned τ ÷ the best of the grid (τ = {best})", "learned", best, 1.03, False),
    ]
    found = [
        Criterion(f"{name}: {what}", ratio_over_seeds(ppl[a], ppl[b]), target, more, group.decides)
        for what, a, b, target, more in told
    ]
    optimum = f"{name}: an interior optimum, NLL of the better end − of τ = {best}, nats"
    return [*found, Criterion(optimum, inside, 0.0, decides=group.decides)]


def _cell(name: str, seed: int, quick: bool) -> Cell:
    group, made = GROUPS[name], GROUPS[name].recipe
    asked: dict[str, Any] = {
        "train": group.train, "test": group.test, "sets": list(group.sets), "taus": group.taus,
        "draws": group.draws,
    }  # fmt: skip
    if quick:
        asked |= {**QUICK, "sets": list(group.sets[:2])}
        made = hasty(made, 4, 1.0)
    return Cell("population", {"seed": seed, **asked, "recipe": made})


def _perplexity(found: Result, tau: str) -> float:
    nlls = [one["nll"] for one in found["taus"][tau]["tasks"].values()]
    return float(np.exp(np.mean(nlls)))


def _table(group: Group, seen: Mapping[int, Result], ppl: Mapping[str, list[float]]) -> Table:
    rows = []
    for tau, values in ppl.items():
        tasks = [list(found["taus"][tau]["tasks"].values()) for found in seen.values()]
        right = [one["accuracy"] for each in tasks for one in each if "accuracy" in one]
        nll = over_seeds([float(np.log(value)) for value in values])
        accuracy = f"{100 * np.mean(right):.1f}" if right else ""
        rows.append([tau, f"{np.exp(nll.value):.3f}", f"{nll.value:.3f} ({nll.spread})", accuracy])
    learned = [
        value for found in seen.values() for value in found["taus"]["learned"]["tau"].values()
    ]
    rows.append(
        ["learned τ, by block and seed", f"{min(learned):.3g} to {max(learned):.3g}", "", ""]
    )
    columns = ["τ", f"perplexity of {group.unit}", "NLL, nats (95 % over seeds)", "accuracy, %"]
    title = f"{group.told}: {group.train} training and {group.test} test rows each"
    return Table(title, columns, rows)


def _plot(name: str, group: Group, grid: list[str], ppl: Mapping[str, list[float]]) -> Plot:
    at = [float(tau) for tau in grid]
    ends = [at[0], at[-1]] if len(at) > 1 else [at[0] / 3, at[0] * 3]
    lines = {"fixed τ": [[t, _mean(ppl[g])] for t, g in zip(at, grid, strict=True)]}
    lines |= {tau: [[end, _mean(ppl[tau])] for end in ends] for tau in ENDS}
    data = {"lines": lines, "x": "τ", "y": f"perplexity of {group.unit}", "log": True}
    return Plot("lines", f"{name}: perplexity over τ", data)


def _mean(values: list[float]) -> float:
    return round(float(np.exp(np.mean(np.log(values)))), 5)


R7 = Claim(
    name="R7",
    title="Tasks that share a prior, and a learned strength of sharing",
    claim="BoRA (arXiv 2407.15857): with θ_d ~ N(Θ, 1/τ) over 25 speakers' language models, "
    "perplexity has an optimum between independent (16.80) and pooled (13.91) at 12.82; to learn τ "
    "by variational inference is named as future work.",
    target="Learned τ at least 5 % better in perplexity than independent tasks, 2 % than pooled "
    "ones, within 3 % of the best τ of a grid; the optimum of the grid inside.",
    about="The library's `bora`: linear LoRA and head are Gaussian, all tasks in one gauge. "
    "Perplexity is that of a label or a token, exp(NLL). The verdict hangs on the readers: tweets, "
    "product and film reviews of the vader corpus, rated by people; a lenient reader calls good "
    "what is rated above −0.5, −1 or −1.5, a strict one what is above 1.5, so that pooled rows "
    "contradict each other. No row has two readers. Speakers are the paper's setting, as far as "
    "two cores can pay for it; their last speeches are for tests.",
    cells=cells,
    judge=judge,
    tried="With 16 epochs on the eight domains all fits but the pooled one, which takes eight "
    "times as many steps, were short of them (alone 1.82, learned 1.77, pooled 1.61). Pooling "
    "cannot lose there, which is why readers decide. On both the learned τ stops below the grid's "
    "best: under λ = 0.3 each row counts as three, and means that follow their own rows so closely "
    "lie further apart than the tasks do. Under λ = 1 (readers, one seed) the learned τ is the "
    "grid's best, and every perplexity is higher. τ's closed form is slow where most weights say "
    "nothing: MacKay's update of it, γ over the squared gaps, reaches 360 to 510 in the adapters "
    "instead of 150 to 210, and perplexities of 1.702 and 1.748 instead of 1.711 and 1.746 (seeds "
    "0 and 2): no gain. Gaps that count λ times beside the spread gave 1.709, 1.732 and 1.746. "
    "Speakers were not run: an epoch of theirs costs twenty times as much.",
)

"""R6: after a real drift, forgetting that adapts against forgetting nothing and fine-tuning on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Plot, Table
from benchmarks.reproduction.recipes import SHORT, SWIFT, hasty, ours, recipe
from benchmarks.reproduction.statistics import difference_over_seeds, over_rounds, over_seeds

SEEDS, BEFORE, AFTER, ROWS, TEST = (0, 1, 2), 2, 3, 120, 150
# What counts as recovered: this share of the accuracy before the drift, on what holds now.
RECOVERED = 0.95
# Faster is by half a round in the mean.
FEWER = -0.5
MORE: dict[str, Any] = {"plan": {"rho_learning_rate": 0.1}, "least_steps": 56}
OURS = ours(SHORT, plan=SWIFT, least_steps=56)

# A drift → what a batch is before and after it.
DRIFTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "concept flip": ({"set": "tweets"}, {"set": "tweets", "flip": True}),
    "label shift": ({"set": "tweets", "share": 0.5}, {"set": "tweets", "share": 0.1}),
    "new domain": ({"set": "movie"}, {"set": "tweets"}),
}
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "adaptive, ρ of 1 or 0": ("adaptive", {"drifted": 0.0}, OURS),
    "ρ = 1": ("ours", {}, OURS),
    "fine-tuning on": ("warm", {}, recipe("point", SHORT, **MORE)),
}
ADAPTIVE = "adaptive, ρ of 1 or 0"
FIXED, TUNED = "ρ = 1", "fine-tuning on"


def cells(quick: bool) -> list[Cell]:
    """Return one cell for each way, drift and seed."""
    return [
        _cell(way, drift, seed, quick)
        for seed in (SEEDS[:1] if quick else SEEDS)
        for drift in (list(DRIFTS)[:1] if quick else DRIFTS)
        for way in _ways(quick)
    ]


def judge(quick: bool, find: Find) -> Judged:
    """Return how many rounds each way needs to recover, and what it forgets."""
    criteria, tables, plots, said = [], [], [], []
    seeds: set[int] = set()
    for drift in DRIFTS:
        seen = {
            way: {
                seed: found
                for seed in SEEDS
                if (found := find(_cell(way, drift, seed, quick))) is not None
            }
            for way in _ways(quick)
        }
        seen = {way: found for way, found in seen.items() if found or way in (ADAPTIVE, FIXED)}
        shared = sorted(set.intersection(*(set(found) for found in seen.values())))
        if not shared:
            said.append(f"{drift.capitalize()} was not run yet.")
            continue
        seeds |= set(shared)
        seen = {way: {s: found[s] for s in shared} for way, found in seen.items()}
        criteria += _criteria(drift, seen, shared)
        tables.append(_table(drift, seen))
        said += [_at_the_end(drift, seen)]
        if not _to_win([rounds_to_recover(found) for found in seen[FIXED].values()]):
            said += ["There ρ = 1 recovers in one round, and nothing can be faster."]
        plots.append(_plot(drift, seen))
    return Judged(criteria, sorted(seeds), tables, plots, said if criteria else [])


def _ways(quick: bool) -> list[str]:
    """Return the ways tried."""
    return [ADAPTIVE, FIXED] if quick else list(WAYS)


def _cell(way: str, drift: str, seed: int, quick: bool) -> Cell:
    strategy, settings, made = WAYS[way]
    rows, test = ROWS, TEST
    if quick:
        rows, test = 100, 24
        made = hasty(made, 1, 0.5)
    one, other = ({**batch, "rows": rows} for batch in DRIFTS[drift])
    tests = [{**one, "name": "before", "rows": test}, {**other, "name": "now", "rows": test}]
    asked = {
        "strategy": strategy, "settings": settings, "seed": seed, "selected": 0.2, "drift": drift,
        "batches": [one] * BEFORE + [other] * AFTER, "tests": tests, "recipe": made, "draws": 5,
    }  # fmt: skip
    return Cell("rounds", asked)


def _at(result: Result, back: int, test: str, figure: str = "accuracy") -> float:
    return float(result["rounds"][back]["tests"][test][figure])


def rounds_to_recover(result: Result) -> int:
    """Return after how many rounds of what holds now it is known as well as the old was."""
    rounds = result["rounds"]
    level = RECOVERED * float(rounds[BEFORE - 1]["tests"]["before"]["accuracy"])
    after = [float(one["tests"]["now"]["accuracy"]) for one in rounds[BEFORE:]]
    return next((at for at, value in enumerate(after, 1) if value >= level), len(after) + 1)


def _criteria(
    drift: str, seen: Mapping[str, Mapping[int, Result]], seeds: list[int]
) -> list[Criterion]:
    needed = {way: [rounds_to_recover(found[s]) for s in seeds] for way, found in seen.items()}
    fewer = difference_over_seeds(needed[ADAPTIVE], needed[FIXED])
    nlls = ([_after(seen[way][s]) for s in seeds] for way in (ADAPTIVE, FIXED))
    now = f"{drift}: NLL of what holds now, mean over the rounds after, adaptive ρ − ρ = 1, nats"
    found = [
        Criterion(
            f"{drift}: rounds to recover, adaptive ρ", over_seeds(needed[ADAPTIVE]), 2.0, False
        ),
        Criterion(
            f"{drift}: rounds to recover, adaptive ρ − ρ = 1",
            fewer,
            FEWER,
            at_least=False,
            decides=_to_win(needed[FIXED]),
        ),
        Criterion(now, difference_over_seeds(*nlls), 0.0, at_least=False, decides=False),
    ]
    if drift == "new domain" and TUNED in seen:
        old = {w: [100 * _at(seen[w][s], -1, "before") for s in seeds] for w in (ADAPTIVE, TUNED)}
        kept = difference_over_seeds(old[ADAPTIVE], old[TUNED])
        told = "new domain: accuracy kept of the old one, adaptive ρ − fine-tuning, points"
        found.append(Criterion(told, kept, 0.0))
    return found


def _to_win(needed: Sequence[int]) -> bool:
    """Say whether anything can be faster: nobody recovers in fewer rounds than one."""
    return max(needed) > 1


def _after(result: Result) -> float:
    """Return the NLL of what holds now, in nats, mean over the rounds after the drift."""
    return float(np.mean([_at(result, back, "now", "nll") for back in range(-AFTER, 0)]))


def _at_the_end(drift: str, seen: Mapping[str, Mapping[int, Result]]) -> str:
    """Say how well each way knows what holds now, after the last round."""
    known = {
        way: 100 * np.mean([_at(one, -1, "now") for one in found.values()])
        for way, found in seen.items()
    }
    told = ", ".join(f"{way} {accuracy:.0f} %" for way, accuracy in known.items())
    return f"Accuracy at the end of the {drift}: {told}."


def _table(drift: str, seen: Mapping[str, Mapping[int, Result]]) -> Table:
    rows = []
    for way, found in seen.items():
        each = list(found.values())
        now = [100 * np.mean([_at(r, at, "now") for r in each]) for at in range(-AFTER - 1, 0)]
        rows.append(
            [
                way, *(f"{value:.1f}" for value in now),
                f"{np.mean([_at(r, -1, 'now', 'nll') for r in each]):.3f}",
                f"{100 * np.mean([_at(r, -1, 'before') for r in each]):.1f}",
                ", ".join(str(rounds_to_recover(r)) for r in each),
                ", ".join(f"{r['rounds'][-AFTER]['rho']:g}" for r in each),
            ]
        )  # fmt: skip
    names = ["before the drift", *(f"after {n}" for n in range(1, AFTER + 1))]
    columns = [
        "accuracy on what holds now, %", *names, "NLL at the end",
        "at the end, on what held before",
        "rounds to recover, by seed", "ρ of the first round after",
    ]  # fmt: skip
    return Table(f"{drift}: {BEFORE} rounds before, {AFTER} after, {ROWS} rows each", columns, rows)


def _plot(drift: str, seen: Mapping[str, Mapping[int, Result]]) -> Plot:
    lines = over_rounds(seen, lambda r: [_at(r, at, "now") for at in range(len(r["rounds"]))])
    data = {"lines": lines, "x": "round", "y": "accuracy on what holds now", "mark": BEFORE + 0.5}
    return Plot("lines", drift, data)


R6 = Claim(
    name="R6",
    title="Forgetting that adapts to drift",
    claim="A power prior whose ρ is chosen by the data recovers from a drift that ρ = 1 drags "
    "behind, and forgets less than fine-tuning on (method §3).",
    target="At most two rounds to recover, and fewer than with ρ = 1, above all from a concept "
    "flip; after a new domain more is kept of the old one than by fine-tuning on.",
    about=f"{BEFORE} rounds, then a drift, then {AFTER} of {ROWS} rows each, a fifth of them kept "
    f"to choose ρ by; ours has a Gaussian head. Recovered: {RECOVERED:.0%} of the accuracy before "
    "the drift, on what holds now.",
    cells=cells,
    judge=judge,
    turn=2,
    tried="At the rate of 2e-3 (seed 0) the first round after the flip reached 51 % instead of 76. "
    "To keep half or a tenth of the past was tried, before later rounds' σ was bounded (three "
    "seeds; NLL of what holds now, mean over the rounds after the flip): 0.526 and 0.475 beside "
    "0.542 with ρ = 1. What is wrong holds a flip back, so the library starts over. Started as "
    "wide as the base prior, such rounds reached 73, 79 and 80 % on the seed that ρ = 1 learns "
    "least on (seed 2), and 77, 81 and 82 % as narrow as a first round, which they are now. The "
    "price: after the label shift seed 1 started over, 24 selection rows being for it, and was "
    "0.08 nats worse than ρ = 1; on the other seeds the shift passed unnoticed, as the new domain "
    "did on all.",
)

"""R5: posterior → prior rounds against what one would do without a posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Plot, Table
from benchmarks.reproduction.recipes import SHORT, SWIFT, hasty, known, ours, recipe
from benchmarks.reproduction.statistics import (
    Estimate,
    difference_over_seeds,
    over_rounds,
    over_seeds,
)

SEEDS = (0, 1, 2, 3, 4)
DOMAINS = ("movie", "amazon", "nyt", "tweets")
ROWS_EACH, SIZES = 160, (10, 20, 40, 80, 160, 320)
# Ten rows are one step an epoch: every way takes at least so many steps a round, so that σ arrives.
LEAST_STEPS = 56
MORE: dict[str, Any] = {"plan": {"rho_learning_rate": 0.1}, "least_steps": LEAST_STEPS}

# A sequence → its batches and the sets it is judged on.
SEQUENCES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "domains": (
        [{"set": name, "rows": ROWS_EACH} for name in DOMAINS],
        [{"name": name, "set": name, "rows": 120} for name in DOMAINS],
    ),
    "growing": (
        [{"set": "vader", "rows": size} for size in SIZES],
        [{"name": "vader", "set": "vader", "rows": 240}],
    ),
}
POINT = recipe("point", SHORT, **MORE)
# The library's default has a point head, which short rounds are better with.
OURS = ours(SHORT, plan=SWIFT, least_steps=LEAST_STEPS, head_std=0.0)
HEADED = ours(SHORT, plan=SWIFT, least_steps=LEAST_STEPS)
MINE, REPLAY = "ours", "full replay, ours"
WITH_HEAD, REPLAY_WITH_HEAD = "ours with a Gaussian head", "full replay, ours with a Gaussian head"
# What the page calls it → strategy, its settings, recipe.
WAYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    MINE: ("ours", {}, OURS),
    WITH_HEAD: ("ours", {}, HEADED),
    "warm start": ("warm", {}, POINT),
    "L2 to the last weights": ("l2", {}, POINT),
    "online EWC": ("ewc", {}, POINT),
    "20 % replay, warm start": ("replay", {"share": 0.2}, POINT),
    REPLAY: ("full_replay", {}, OURS),
    REPLAY_WITH_HEAD: ("full_replay", {}, HEADED),
    "full replay, point estimate": ("full_replay", {}, POINT),
    "scratch on the new batch": ("scratch", {}, POINT),
    "BH-PEFT's own loss": ("ours", {}, recipe("bh_peft_paper", SHORT, **MORE)),
}
# What is dear and says least: left out of one of the sequences.
LEFT_OUT = {
    ("domains", "scratch on the new batch"),
    ("domains", "full replay, point estimate"),
    ("growing", "L2 to the last weights"),
    ("growing", "BH-PEFT's own loss"),
    ("growing", WITH_HEAD),
    ("growing", REPLAY_WITH_HEAD),
}
RIVALS = ("warm start", "L2 to the last weights", "online EWC")
# What no figure that decides hangs on: the first seed only.
ONCE = (
    "20 % replay, warm start",
    "full replay, point estimate",
    "scratch on the new batch",
    "BH-PEFT's own loss",
)
# A figure → how it is told, the unit it is told in, and whether more is better.
FIGURES = {"accuracy": ("accuracy (points)", 100, True), "nll": ("NLL (nats)", 1, False)}


def cells(quick: bool) -> list[Cell]:
    """Return one cell for each way, sequence and seed."""
    return [
        _cell(way, sequence, seed, quick)
        for seed in (SEEDS[:1] if quick else SEEDS)
        for sequence in (["domains"] if quick else SEQUENCES)
        for way in ([MINE, "warm start"] if quick else _possible(sequence))
        if seed == SEEDS[0] or way not in ONCE
    ]


def judge(quick: bool, find: Find) -> Judged:
    """Return both sequences: accuracy and NLL of what was seen, paired over seeds."""
    criteria, tables, plots, said = [], [], [], []
    seeds: set[int] = set()
    for sequence in SEQUENCES:
        ways = {
            way: {
                seed: found
                for seed in SEEDS
                if (found := find(_cell(way, sequence, seed, quick))) is not None
            }
            for way in _possible(sequence)
        }
        ways = {way: seen for way, seen in ways.items() if seen}
        if MINE not in ways or len(ways) < 2:
            said.append(f"The sequence “{sequence}” was not run yet with ours as it is now.")
            continue
        seeds |= set(ways[MINE])
        criteria += _criteria(sequence, ways)
        tables.append(_table(sequence, ways))
        if sequence == "domains":
            plots += [_matrix(way, ways[way]) for way in (MINE, "warm start") if way in ways]
        plots.append(_curve(sequence, ways))
    return Judged(criteria, sorted(seeds), tables, plots, said if criteria else [])


def _possible(sequence: str) -> list[str]:
    return [
        way
        for way, (_, _, made) in WAYS.items()
        if known(made["variant"]) and (sequence, way) not in LEFT_OUT
    ]


def _cell(way: str, sequence: str, seed: int, quick: bool) -> Cell:
    strategy, settings, made = WAYS[way]
    batches, tests = SEQUENCES[sequence]
    if quick:
        batches = [{**one, "rows": 24} for one in batches[:2]]
        tests = [{**one, "rows": 24} for one in tests[:2]]
        made = hasty(made, 2, 0.2)
    asked = {"strategy": strategy, "settings": settings, "seed": seed, "sequence": sequence}
    return Cell("rounds", {**asked, "batches": batches, "tests": tests, "recipe": made, "draws": 5})


def seen_so_far(result: Result, figure: str) -> list[float]:
    """Return after each round the mean of a figure over the test sets of the domains seen."""
    found, domains = [], []
    for one in result["rounds"]:
        domains.append(one["domain"])
        known_sets = [name for name in one["tests"] if name in domains]
        found.append(float(np.mean([one["tests"][name][figure] for name in known_sets])))
    return found


def _mean(result: Result, figure: str) -> float:
    return float(np.mean(seen_so_far(result, figure)))


def _last(result: Result, figure: str) -> float:
    return seen_so_far(result, figure)[-1]


def _paired(
    ways: Mapping[str, Mapping[int, Result]],
    left: str,
    right: str,
    figure: str,
    of: Callable[[Result, str], float] = _mean,
) -> Estimate | None:
    """Return the difference of two ways over the seeds both have; None where there is none."""
    seeds = sorted(set(ways[left]) & set(ways[right]))
    if not seeds:
        return None
    sides = ([of(ways[way][seed], figure) for seed in seeds] for way in (left, right))
    return difference_over_seeds(*sides)


def _criteria(sequence: str, ways: Mapping[str, Mapping[int, Result]]) -> list[Criterion]:
    found = []
    for way in (one for one in RIVALS if one in ways):
        for figure, (told, unit, at_least) in FIGURES.items():
            gap = _paired(ways, MINE, way, figure)
            if gap is not None:
                what = f"{sequence}: {told} of {MINE} − of {way}, mean over rounds"
                found.append(Criterion(what, _scaled(gap, unit), 0.0, at_least))
    for of, when in ((_mean, "mean over rounds"), (_last, "after the last round")):
        gap = _paired(ways, MINE, REPLAY, "accuracy", of) if REPLAY in ways else None
        if gap is not None:
            what = f"{sequence}: accuracy (points) of {MINE} − of {REPLAY}, {when}"
            found.append(Criterion(what, _scaled(gap, 100), -1.0, decides=of is _mean))
    return found


def _scaled(gap: Estimate, unit: float) -> Estimate:
    return Estimate(unit * gap.value, unit * gap.low, unit * gap.high)


def _table(sequence: str, ways: Mapping[str, Mapping[int, Result]]) -> Table:
    rows = []
    for way, seen in ways.items():
        found = [over_seeds([_mean(r, f) for r in seen.values()]) for f in ("accuracy", "nll")]
        last = [np.mean([_last(r, f) for r in seen.values()]) for f in ("accuracy", "nll", "ece")]
        seconds = np.mean([r["rounds"][-1]["seconds"] for r in seen.values()])
        rows.append(
            [
                way, f"{100 * found[0].value:.1f} ({_scaled(found[0], 100).spread})",
                f"{found[1].value:.3f} ({found[1].spread})",
                f"{100 * last[0]:.1f}", f"{last[1]:.3f}", f"{last[2]:.3f}",
                f"{seconds:.0f}", len(seen),
            ]
        )  # fmt: skip
    columns = [
        "", "accuracy, %, mean over rounds", "NLL, mean over rounds", "accuracy, last",
        "NLL, last", "ECE, last", "CPU seconds of the last round", "seeds",
    ]  # fmt: skip
    titles = {
        "domains": f"Four domains in turn, {ROWS_EACH} rows each: all domains seen so far",
        "growing": f"Rounds of {', '.join(map(str, SIZES))} rows of all four domains",
    }
    return Table(titles[sequence], columns, rows)


def _matrix(way: str, seen: Mapping[int, Result]) -> Plot:
    after = [one["domain"] for one in next(iter(seen.values()))["rounds"]]
    cells_ = [
        [
            float(np.mean([r["rounds"][at]["tests"][name]["accuracy"] for r in seen.values()]))
            for name in after
        ]
        for at in range(len(after))
    ]
    values = [[round(100 * cell, 1) for cell in row] for row in cells_]
    return Plot(
        "matrix", f"{way}: accuracy, %", {"rows": after, "columns": after, "values": values}
    )


def _curve(sequence: str, ways: Mapping[str, Mapping[int, Result]]) -> Plot:
    lines = over_rounds(ways, lambda result: seen_so_far(result, "nll"))
    data = {"lines": lines, "x": "round", "y": "NLL of what was seen, nats"}
    return Plot("lines", f"{sequence}: NLL over rounds", data)


R5 = Claim(
    name="R5",
    title="Posterior → prior rounds learn on at a constant cost",
    claim="BH-PEFT (arXiv 2508.02711): with the last posterior as the next prior, dynamic "
    "fine-tuning in rounds beats fine-tuning on, and comes close to full replay.",
    target="Accuracy and NLL, mean over rounds, better than warm start, L2 to the last weights and "
    "online EWC; accuracy within 1 point of full replay at O(1) cost a round.",
    about=f"The four domains of the vader corpus in turn ({ROWS_EACH} rows each), and rounds that "
    f"double from {SIZES[0]} to {SIZES[-1]} rows over all of them (the paper's protocol, cut at "
    f"{SIZES[-1]}: twice that would have cost more than all other sequences). {SHORT} epochs a "
    "round for every way; 5 draws. Ours is the library's default, with a point head. Intervals are "
    "Student's t over paired seeds.",
    cells=cells,
    judge=judge,
    tried="At the rate of 2e-3, which long trainings want, ours is short of steps here: domains in "
    "turn gave accuracy 72.0 and NLL 0.560, mean over rounds (seed 0), beside 77.8 and 0.698 of "
    "warm start. The library's rate therefore rises in rounds of 40 to 200 steps; 5e-3 is its "
    "rate for the 80 steps of these, and that under ours. A Gaussian head (seeds 0 to 2, before "
    "later rounds' σ was bounded) was 1.7 points of accuracy behind. In growing rounds one at 2e-3 "
    "had accuracy 66.1 and NLL 0.615, warm start 67.3 and 1.155, full replay of the same 65.3 and "
    "0.631 (seed 0). The anchor of online EWC is too weak to be felt over so few rows.",
)

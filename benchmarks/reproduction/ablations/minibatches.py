"""A9: what a first round of few rows learns, by the rows of a minibatch.

In as many passes over its rows fewer rows a minibatch are more steps; in as many steps they are
fewer passes. Rates are the rule's for as many steps, written out as in A8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from benchmarks.reproduction.ablations.by_length import RHO_SUM, TEST, Length, cells, judge
from benchmarks.reproduction.claim import Claim
from benchmarks.reproduction.recipes import recipe


class Passes(NamedTuple):
    """How often rows are passed over, and the rule's rate for as many steps as that makes."""

    epochs: int
    rate: float


def _length(name: str, rows: int, given: Mapping[int, Passes], layers: int = 2) -> Length:
    """Return a length with its settings.

    Args:
        name: how long it is, in words.
        rows: how many.
        given: rows of a minibatch → passes.
        layers: how many are adapted.
    """

    def made(size: int, passes: Passes) -> dict[str, Any]:
        rho = round(RHO_SUM / (passes.epochs * -(-rows // size)), 4)
        plan = {"learning_rate": passes.rate, "rho_learning_rate": rho, "batch_size": size}
        return {**recipe("bh_peft", passes.epochs, plan=plan), "layers": layers}

    ways = {f"{size} rows": made(size, passes) for size, passes in given.items()}
    return Length(name, f"{rows} rows, {layers} layers", rows, ways)


def _passes(epochs: int, rows: int, rates: Mapping[int, float], layers: int = 2) -> Length:
    given = {size: Passes(epochs, rate) for size, rate in rates.items()}
    times = f"{epochs} passes" if epochs > 1 else "one pass"
    return _length(f"{times} over {rows:,} rows", rows, given, layers)


LENGTHS = (
    _passes(1, 84, {16: 2e-3, 8: 2e-3, 4: 2e-3, 2: 9.5e-3}),
    _passes(2, 160, {16: 2e-3, 8: 1e-2, 4: 5e-3}),
    _passes(2, 384, {16: 8.3e-3, 8: 4.2e-3, 4: 2.1e-3}),
    _length(
        "100 steps of 84 rows", 84,
        {16: Passes(17, 3.9e-3), 8: Passes(9, 4e-3), 4: Passes(5, 3.8e-3)},
    ),
    _length(
        "260 steps of 384 rows", 384,
        {16: Passes(11, 2e-3), 8: Passes(5, 2e-3), 4: Passes(3, 2e-3)},
    ),
    _passes(2, 384, {16: 8.3e-3, 8: 4.2e-3, 4: 2.1e-3}, layers=6),
    _passes(2, 160, {16: 2e-3, 8: 1e-2, 4: 5e-3}, layers=6),
    _passes(4, 384, {16: 4.2e-3, 8: 2.1e-3, 4: 2e-3}),
    _passes(2, 1400, {16: 2.3e-3, 8: 2e-3, 4: 2e-3}),
)  # fmt: skip

A9 = Claim(
    name="A9",
    title="Rows of a minibatch",
    claim="How far a first round of few rows gets by the rows of a minibatch: in as many passes, "
    "and in as many steps.",
    target="16 rows, and 8 where `max_epochs` leave fewer than 100 steps of them "
    "(`Plan.minibatch`); the tables stand beside 16.",
    about="LoRA of rank 8 on the top two layers or all six, λ = 0.3, a point head; the means' rate "
    f"is the library's for as many steps; rho's is {RHO_SUM:g} over the steps; {TEST} test rows.",
    cells=partial(cells, LENGTHS),
    judge=partial(judge, LENGTHS, timed=True),
    kind="ablation",
)

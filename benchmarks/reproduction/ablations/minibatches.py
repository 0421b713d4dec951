"""A9: what a first round of few rows learns, by the rows of a minibatch.

Passes over the rows are the same, so fewer rows a minibatch are more steps. Rates are the rule's
for as many steps, written out as in A8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.reproduction.ablations.by_length import RHO_SUM, TEST, Length, cells, judge
from benchmarks.reproduction.claim import Claim
from benchmarks.reproduction.recipes import recipe


def _length(rows: int, epochs: int, rates: Mapping[int, float], layers: int = 2) -> Length:
    """Return a length with its settings.

    Args:
        rows: how many.
        epochs: passes over them.
        rates: rows of a minibatch → the rule's rate for as many steps.
        layers: how many are adapted.
    """

    def made(size: int, rate: float) -> dict[str, Any]:
        steps = epochs * -(-rows // size)
        rho = round(RHO_SUM / steps, 4)
        plan = {"learning_rate": rate, "rho_learning_rate": rho, "batch_size": size}
        return {**recipe("bh_peft", epochs, plan=plan), "layers": layers}

    ways = {f"{size} rows": made(size, rate) for size, rate in rates.items()}
    where = "" if layers == 2 else f" in {layers} layers"
    return Length(f"{rows * epochs:,} rows in all{where}", rows, epochs, ways)


LENGTHS = (
    _length(84, 1, {16: 2e-3, 8: 2e-3, 4: 2e-3, 2: 9.5e-3}),
    _length(160, 2, {16: 2e-3, 8: 1e-2, 4: 5e-3}),
    _length(384, 2, {16: 8.3e-3, 8: 4.2e-3, 4: 2.1e-3}),
    _length(160, 2, {16: 2e-3, 8: 1e-2, 4: 5e-3}, layers=6),
    _length(384, 2, {16: 8.3e-3, 8: 4.2e-3, 4: 2.1e-3}, layers=6),
    _length(384, 4, {16: 4.2e-3, 8: 2.1e-3, 4: 2e-3}),
    _length(1400, 2, {16: 2.3e-3, 8: 2e-3, 4: 2e-3}),
)

A9 = Claim(
    name="A9",
    title="Rows of a minibatch",
    claim="How far a first round of few rows gets in as many passes over them, by the rows of a "
    "minibatch.",
    target="16 rows.",
    about=f"LoRA of rank 8 on the top two layers or all six, λ = 0.3, a point head; the means' rate "
    f"is the library's for as many steps; rho's is {RHO_SUM:g} over the steps; {TEST} test rows.",
    cells=partial(cells, LENGTHS),
    judge=partial(judge, LENGTHS, timed=True),
    kind="ablation",
)

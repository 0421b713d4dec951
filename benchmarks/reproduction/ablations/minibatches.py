"""A9: what a first round of few rows learns, by the rows of a minibatch.

Passes over the rows are the same, so fewer rows a minibatch are more steps. Rates are the rule's
for as many steps, written out as in A8.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.reproduction.ablations.by_length import RHO_SUM, TEST, Length, cells, judge
from benchmarks.reproduction.claim import Claim
from benchmarks.reproduction.recipes import recipe

SIZES = (16, 8, 4)


def _length(rows: int, epochs: int, rates: tuple[float, ...]) -> Length:
    """Return a length with its settings.

    Args:
        rows: how many.
        epochs: passes over them.
        rates: the rule's, for minibatches of each of `SIZES`.
    """

    def made(size: int, rate: float) -> dict[str, Any]:
        steps = epochs * -(-rows // size)
        rho = round(RHO_SUM / steps, 4)
        plan = {"learning_rate": rate, "rho_learning_rate": rho, "batch_size": size}
        return recipe("bh_peft", epochs, plan=plan)

    ways = {f"{size} rows": made(size, rate) for size, rate in zip(SIZES, rates, strict=True)}
    return Length(f"{rows * epochs:,} rows in all", rows, epochs, ways)


LENGTHS = (
    _length(84, 1, (2e-3, 2e-3, 2e-3)),
    _length(160, 2, (2e-3, 1e-2, 5e-3)),
    _length(384, 2, (8.3e-3, 4.2e-3, 2.1e-3)),
    _length(384, 4, (4.2e-3, 2.1e-3, 2e-3)),
    _length(1400, 2, (2.3e-3, 2e-3, 2e-3)),
)

A9 = Claim(
    name="A9",
    title="Rows of a minibatch",
    claim="How far a first round of few rows gets in as many passes over them, by the rows of a "
    "minibatch.",
    target="16 rows.",
    about=f"LoRA of rank 8 on the top two layers, λ = 0.3, a point head; the means' rate is the "
    f"library's for as many steps; rho's is {RHO_SUM:g} over the steps; {TEST} test rows.",
    cells=partial(cells, LENGTHS),
    judge=partial(judge, LENGTHS, timed=True),
    kind="ablation",
)

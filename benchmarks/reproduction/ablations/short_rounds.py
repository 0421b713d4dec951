"""A8: what a first round learns in few steps: its rate, where σ starts, the head.

The optimiser's rates are written out, as in A1: what is compared here stays what was measured when
the library's defaults move. rho's is such that σ can go its way in each number of steps.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.reproduction.ablations.by_length import RHO_SUM, TEST, Length, cells, judge
from benchmarks.reproduction.claim import Claim
from benchmarks.reproduction.recipes import HEAD_STD, recipe


def _length(steps: int, rows: int, epochs: int, rule: float, other: float) -> Length:
    """Return a length of so many steps of 16 rows.

    Args:
        steps: how many.
        rows: how many make as many
        epochs: passes over them.
        rule: the library's rate for them.
        other: another rate beside it.
    """

    def made(variant: str = "bh_peft", rate: float = rule, **more: Any) -> dict[str, Any]:
        rates = {"learning_rate": rate, "rho_learning_rate": round(RHO_SUM / steps, 4)}
        return recipe(variant, epochs, plan=rates, **more)

    ways = {
        f"the rule: {rule:.2g}": made(),
        f"another rate: {other:.2g}": made(rate=other),
        "σ from 0.005": made(changes={"start_std": [0.005, 0.005]}),
        "Gaussian head": made(head_std=HEAD_STD),
        "point estimate, 2e-3": made("point", 2e-3),
    }
    return Length(f"{steps} steps", f"{rows} rows, {epochs} epochs", rows, ways)


LENGTHS = (
    _length(40, 160, 4, rule=1e-2, other=2e-3),
    _length(96, 384, 4, rule=4.2e-3, other=2e-3),
    _length(320, 320, 16, rule=2e-3, other=5e-3),
    _length(640, 512, 20, rule=2e-3, other=5e-3),
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
    cells=partial(cells, LENGTHS),
    judge=partial(judge, LENGTHS),
    kind="ablation",
)

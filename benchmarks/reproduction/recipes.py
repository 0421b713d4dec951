"""The recipes that claims have in common, as JSON: a cell is named by a digest of it.

MiniLM with LoRA in the top two of its six layers: frozen layers then run once a text, and the point
estimate over-fits as far as with three (one seed of 500 film reviews: ECE 0.20, NLL 1.26 with two;
0.20 and 1.34 with three).
"""

from __future__ import annotations

from typing import Any

from bhpeft.learning.plan import Plan
from bhpeft.learning.variants import HEAD_STD, VARIANTS

# Past the point estimate's optimum, which is at three to five epochs of 500 rows.
LONG, SHORT = 20, 8
# Rounds of about 80 steps: the library's rate for so few, and a σ that can arrive in them.
SWIFT: dict[str, Any] = {
    "rho_learning_rate": 0.1,
    "learning_rate": Plan().rate_of_means(80, longer=True),
}


def recipe(variant: str, epochs: int = LONG, **more: Any) -> dict[str, Any]:
    """Return a recipe of a variant, LoRA alone."""
    plan = {"epochs": epochs, **more.pop("plan", {})}
    return {"variant": variant, "layers": 2, "tokens": 64, "plan": plan, **more}


def ours(epochs: int = LONG, **more: Any) -> dict[str, Any]:
    """Return our recipe: `bh_peft_head`, LoRA alone; with `head_std=0.0` it is `bh_peft`."""
    return recipe("bh_peft", epochs, **{"head_std": HEAD_STD, **more})


def hasty(made: dict[str, Any], epochs: int, rate: float = 0.2) -> dict[str, Any]:
    """Return a recipe that runs every line in a second or two, and learns next to nothing."""
    plan = {"epochs": epochs, "rho_learning_rate": rate}
    return {**made, "plan": plan, "layers": 1, "least_steps": 8 if "least_steps" in made else 0}


def known(variant: str) -> bool:
    """Say whether the library has the variant."""
    return variant in VARIANTS

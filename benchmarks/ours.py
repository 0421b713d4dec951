"""Take bhpeft's own training step on a benchmark's problem, as `bhpeft.learning.fit` takes it."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Generator

from benchmarks.peers.problem import SEED, Learner, Problem
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.descent import Descent
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import Spec
from bhpeft.learning.variants import BH_PEFT
from bhpeft.models.arithmetic import MEASURED, PLAIN, Arithmetic, in_words
from bhpeft.models.pace import Pace
from bhpeft.models.tokens import Chunk, TokenTable

__all__ = ["HYBRID", "LORA", "MEASURED", "PLAIN", "Ours", "ours", "round_on"]

LORA, HYBRID = ("lora",), ("lora", "adapter", "prefix")


@dataclass(frozen=True)
class Ours(Learner):
    """A learner of our own.

    Attributes:
        arithmetic: the dtype and attention it computes in, as measured or asked for.
    """

    arithmetic: str = ""


def ours(
    problem: Problem,
    methods: tuple[str, ...] = LORA,
    arithmetic: Arithmetic = PLAIN,
    gaussian: bool = True,
    checkpointing: bool = False,
) -> Ours:
    """Return the round's step: draw, forward, backward, gradients of mean, rho and KL, AdamW."""
    rows, _ = problem.minibatch["input_ids"].shape
    plan = Plan(batch_size=rows)
    with tempfile.TemporaryDirectory() as folder:
        chunk = (["a text"] * rows, [0] * rows, list(range(rows)))
        lesson = round_on(chunk, problem, Path(folder), plan, methods, arithmetic, gaussian)
    descent = Descent.begin(lesson, Generator().manual_seed(SEED))
    words = in_words(lesson.model.model)

    def step() -> None:
        with lesson.model.checkpointed() if checkpointing else nullcontext():
            descent.step(problem.minibatch, 10**6)

    return Ours(step=step, arithmetic=f"{words['dtype']} {words['attention']}")


def round_on(
    rows: Chunk,
    problem: Problem,
    folder: Path,
    plan: Plan,
    methods: tuple[str, ...] = LORA,
    arithmetic: Arithmetic = PLAIN,
    gaussian: bool = True,
    adapted_layers: int | None = None,
) -> Lesson:
    """Return a first round's learning problem on these rows.

    Args:
        rows: texts, labels and row ids.
        problem: the base, LoRA's settings and the pooling; texts are cut at its minibatch's width.
        folder: where the token table goes.
        plan: epochs and rates.
        methods: which are put on.
        arithmetic: what the base computes in.
        gaussian: False is the point estimate.
        adapted_layers: adapt only the top n layers.
    """
    variant = BH_PEFT if gaussian else BH_PEFT.point()
    tokens = problem.minibatch["input_ids"].shape[1]
    shared = {"layers": adapted_layers}
    lora = {"rank": problem.rank, "alpha": problem.alpha, "target_modules": problem.targets}
    spec = Spec(
        base=problem.base, revision="", fingerprint="", layers=problem.layers,
        task="classification", labels=tuple(f"class {c}" for c in range(problem.labels)),
        pooling=problem.pooling, max_length=tokens,
        methods={name: shared | (lora if name == "lora" else {}) for name in methods},
        variant=variant.name, scale=variant.scale, kl_weight=0.3, forgetting=1.0, gauge="",
        draws=8, seed=SEED, abstain_above=1.0,
    )  # fmt: skip
    model = build_model(spec, arithmetic, Pace())
    start = first_state(model, spec, variant, rows[0][:8], Generator().manual_seed(SEED))
    table = TokenTable.build([rows], model.base.tokenizer, tokens, folder, "the rows")
    return Lesson(model, start, start.prior, table, plan, variant, first=True)

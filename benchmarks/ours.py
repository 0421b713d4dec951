"""Take bhpeft's own training step on a benchmark's problem, as `bhpeft.learning.fit` takes it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import Generator

from benchmarks.peers.problem import SEED, Learner, Problem
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.descent import Descent
from bhpeft.learning.plan import Plan
from bhpeft.learning.problem import Task
from bhpeft.learning.state import Spec
from bhpeft.learning.variants import BH_PEFT
from bhpeft.models.arithmetic import MEASURED, PLAIN, Arithmetic, in_words
from bhpeft.models.tokens import TokenTable

__all__ = ["HYBRID", "LORA", "MEASURED", "PLAIN", "Ours", "ours"]

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
) -> Ours:
    """Return the round's step: draw, forward, backward, gradients of mean, rho and KL, AdamW."""
    variant = BH_PEFT if gaussian else BH_PEFT.point()
    rows, tokens = problem.minibatch["input_ids"].shape
    settings = {"rank": problem.rank, "alpha": problem.alpha, "target_modules": problem.targets}
    spec = Spec(
        base=problem.base, revision="", fingerprint="", layers=problem.layers,
        task="classification", labels=tuple(f"class {c}" for c in range(problem.labels)),
        pooling=problem.pooling, max_length=tokens,
        methods={name: settings if name == "lora" else {} for name in methods},
        variant=variant.name, scale=variant.scale, kl_weight=0.3, forgetting=1.0, gauge="",
        draws=8, seed=SEED, abstain_above=1.0,
    )  # fmt: skip
    generator = Generator().manual_seed(SEED)
    model = build_model(spec, arithmetic)
    state = first_state(model, spec, variant, ["one text", "another"], generator)
    chunk = (["a text"] * rows, [0] * rows, list(range(rows)))
    with tempfile.TemporaryDirectory() as folder:
        table = TokenTable.build([chunk], model.base.tokenizer, tokens, Path(folder), "a minibatch")
    task = Task(model, state, state.prior, table, Plan(batch_size=rows), variant, first=True)
    descent = Descent.begin(task, generator)
    words = in_words(model.model)
    return Ours(
        step=lambda: descent.step(problem.minibatch, 10**6),
        arithmetic=f"{words['dtype']} {words['attention']}",
    )

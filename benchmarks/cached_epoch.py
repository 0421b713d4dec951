"""An epoch from the second on with the top half adapted, over the stock epoch with all layers.

MiniLM with LoRA on query and value of its top three layers of six, rows of 64 tokens in minibatches
of 16. What the three layers below make of a row was kept in the first epoch
(`bhpeft.models.feature_table`) and is read. Stock is as many steps of peft LoRA in float32 on all
layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Generator

from benchmarks.budget import Budget
from benchmarks.machine import target
from benchmarks.ours import LORA, MEASURED, PLAIN, Arithmetic, round_on
from benchmarks.paired import Row, ratios, row
from benchmarks.peers import Problem, peer
from benchmarks.peers.problem import SEED, minilm
from bhpeft.learning.descent import Descent
from bhpeft.learning.plan import Plan
from bhpeft.models.feature_table import with_features

STOCK = "peft LoRA, all layers"
NOTES = """
In float32 half of the layers is close to half of the time: of each adapted layer every product is
computed, forward and backward. With weights laid out once (`bhpeft.methods.laid_out`) products take
a tenth less, which took the mean pooled epoch from 0.47 to below its target. Pooling one token
leaves out most of the last layer.
"""
LIMIT = 2**30


def rows(budget: Budget) -> list[Row]:
    """Return our epochs over the stock one, with and without features and one token pooled."""
    problem = budget.of(minilm(), minilm(4, 16, layers=2))
    steps = budget.of(6, 2)
    stock = peer("peft LoRA", problem).step
    first = replace(problem, pooling="first")
    kinds = {
        "float32, mean pooled": (problem, PLAIN, LIMIT, 0.45),
        "float32, first token pooled": (first, PLAIN, LIMIT, 0.45),
        "float32, mean pooled, nothing kept": (problem, PLAIN, 0, None),
        "as measured here, mean pooled": (problem, MEASURED, LIMIT, target(0.45, 0.14)),
        "as measured here, first token pooled": (first, MEASURED, LIMIT, target(0.45, 0.14)),
    }
    ways: dict[str, Callable[[], object]] = {STOCK: lambda: [stock() for _ in range(steps)]}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as kept:
        for name, (given, arithmetic, limit, _) in kinds.items():
            epoch = _epoch(given, arithmetic, steps, limit, Path(folder, name))
            ways[name] = kept.enter_context(epoch)
        found = ratios(ways, budget)
    return [
        row(f"Bayesian LoRA, top half, {name} ÷ {STOCK}", found[name], most)
        for name, (_, _, _, most) in kinds.items()
    ]


@contextmanager
def _epoch(
    problem: Problem, arithmetic: Arithmetic, steps: int, limit: int, folder: Path
) -> Iterator[Callable[[], None]]:
    """Give one pass over as many rows as `steps` minibatches have."""
    size, tokens = problem.minibatch["input_ids"].shape
    count, half = size * steps, (problem.layers or 6) // 2
    chunk = (["a text " * tokens] * count, [row % 2 for row in range(count)], list(range(count)))
    plan = Plan(batch_size=size)
    task = round_on(chunk, problem, folder, plan, LORA, arithmetic, adapted_layers=half)
    generator = Generator().manual_seed(SEED)
    with with_features(task.rows, task.model, folder, limit) as kept:  # type: ignore[arg-type]
        descent = Descent.begin(replace(task, rows=kept), generator)

        def epoch() -> None:
            for minibatch in kept.minibatches(size, generator):
                descent.step(minibatch, 10**6)

        yield epoch

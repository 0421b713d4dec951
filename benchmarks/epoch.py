"""An epoch on real texts of different lengths, from texts to an adapter, over the stock loop.

The demo's corpus (tweets, film reviews, products, editorials: 25 tokens on average, 96 at most),
MiniLM, LoRA on all layers, minibatches of 16. Both sides tokenise, load, pad and train. Stock is
peft LoRA in float32 with a shuffling DataLoader, padded to the longest row of each minibatch, or to
`max_length` (128): Hugging Face's guides show both, and the targets are set against the first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Generator

from benchmarks.budget import Budget
from benchmarks.machine import target
from benchmarks.ours import MEASURED, PLAIN, Arithmetic, round_on
from benchmarks.paired import Row, over, row, seconds
from benchmarks.peers.loop import SIZE, Loop
from benchmarks.peers.problem import SEED, Problem, minilm
from benchmarks.texts import opinions
from bhpeft.learning.descent import Descent
from bhpeft.learning.plan import Plan
from bhpeft.models.tokens import TokenTable

NOTES = """
Random minibatches of these texts are padded to 1.9 times their tokens, ours, sorted by length in
windows, to 1.02. In float32, where a step takes 0.86 of the stock one (`train_step`), that makes
0.86 · 1.02 / 1.9 = 0.46, and the target asks for texts whose random minibatches are padded to 3.5
times. The rest comes from the arithmetic that was measured: in bfloat16 two thirds of an epoch are
products at 190 GFLOP/s, of the 210 that this processor reaches at any size, and they alone are a
fifth of the stock epoch; a minibatch of 16 such texts is 400 tokens, and attention, GELU and LoRA's
thin products do not gain what the large ones do. Until what is measured here was measured in CPU
time, a busy neighbour had kept the explicit attention from the longest rows: an eighth more. Over a
loop that pads to `max_length`, the other of Hugging Face's two guides, every figure is below its
target.
"""


def rows(budget: Budget) -> list[Row]:
    """Return our epoch over the stock loop's two."""
    found = opinions().head(budget.of(192, 32))
    texts, labels = found["text"].tolist(), (found["label"] == "positive").astype(int).tolist()
    problem = budget.of(minilm(tokens=128), minilm(tokens=128, layers=1))
    first = replace(problem, pooling="first")
    kinds = {
        "float32, mean pooled": (problem, PLAIN, 0.28),
        "float32, first token pooled": (first, PLAIN, 0.28),
        "as measured here, mean pooled": (problem, MEASURED, target(0.28, 0.13)),
        "as measured here, first token pooled": (first, MEASURED, target(0.28, 0.13)),
    }
    stock = ("the longest row", "max_length")
    ways: dict[str, Callable[[], None]] = {
        stock[0]: _stock(problem, "do_not_pad", texts, labels),
        stock[1]: _stock(problem, "max_length", texts, labels),
    }
    for name, (given, arithmetic, _) in kinds.items():
        ways[name] = _ours(given, arithmetic, texts, labels)
    times = seconds(ways, replace(budget, least=min(budget.least, 3)))
    return [
        row(
            f"Bayesian LoRA, {name} ÷ peft LoRA padded to {padded}",
            over(times[name], times[padded]),
            most if padded == stock[0] else None,
        )
        for padded in stock
        for name, (_, _, most) in kinds.items()
    ]


def _stock(
    problem: Problem, padding: str, texts: list[str], labels: list[int]
) -> Callable[[], None]:
    loop = Loop(problem, padding, epochs=10**6)
    return lambda: loop.epoch(texts, labels)


def _ours(
    problem: Problem, arithmetic: Arithmetic, texts: list[str], labels: list[int]
) -> Callable[[], None]:
    generator = Generator().manual_seed(SEED)
    chunk = (texts, labels, list(range(len(texts))))
    with tempfile.TemporaryDirectory() as folder:
        begun = round_on(chunk, problem, Path(folder), Plan(batch_size=SIZE), arithmetic=arithmetic)
    descent = Descent.begin(begun, generator)
    tokenizer, width = begun.model.base.tokenizer, problem.minibatch["input_ids"].shape[1]

    def epoch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            table = TokenTable.build([chunk], tokenizer, width, Path(folder), "again")
            for minibatch in table.minibatches(SIZE, generator):
                descent.step(minibatch, 10**6)

    return epoch

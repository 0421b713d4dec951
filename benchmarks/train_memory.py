"""What a training step holds at most beyond what was there before, over the stock step's peak.

Torch's own record of its allocations while one step runs (16 rows of 64 tokens, MiniLM, LoRA on
query and value), so the figures are exact: weights and optimiser states are not counted, what the
backward pass waits for is. Stock is peft LoRA in float32 with sdpa and AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.budget import Budget, Skipped
from benchmarks.machine import target
from benchmarks.memory import step_peak
from benchmarks.ours import LORA, MEASURED, PLAIN, ours
from benchmarks.paired import Row, row
from benchmarks.peers import PEERS, PREDICTING, Problem, peer
from benchmarks.peers.problem import minilm

STOCK = "peft LoRA"
NOTES = """
What is kept for the backward pass is 4,224 numbers a token and layer: GELU's input 1,536, queries,
keys and values 1,152, and the inputs of both norms, of attention's output and of LoRA, 384 each.
Being Bayesian adds nothing to them, and in float32 there is nothing to leave out but by computing
it again (`checkpointing`), or by not computing it: where one token is pooled the last layer keeps
only what it attends to. A norm could go back from its output, which LoRA keeps anyway: 384 fewer,
a tenth, for a norm of our own that divides by its scale. GELU's input could be computed again:
1,536 fewer, for a ninth of the step's time, which `train_step` does not have.

Checkpointed, six layers' inputs are a tenth of the stock peak and the one layer that is computed
again a sixth, with what goes back through it. A fifth would be less than these in float32.
"""


def rows(budget: Budget) -> list[Row]:
    """Return the peaks of ours and of every peer over the stock one's."""
    problem = budget.of(minilm(), minilm(4, 16, layers=1))
    stock = peak(peer(STOCK, problem).step)
    found = []
    for name, arithmetic in (("float32", PLAIN), ("as measured here", MEASURED)):
        most = 0.80 if arithmetic is PLAIN else target(fp32=0.80, bf16=0.45)
        for pooled in ("mean", "first"):
            given = replace(problem, pooling=pooled)
            plain, again = (ours(given, LORA, arithmetic, checkpointing=c) for c in (False, True))
            what = f"Bayesian LoRA, {name} ({plain.arithmetic}), {pooled} pooled"
            found.append(over(f"{what} ÷ {STOCK}", peak(plain.step), stock, most))
            found.append(over(f"{what}, checkpointed ÷ {STOCK}", peak(again.step), stock, 0.20))
    return [*found, *_peers(problem, stock)]


def _peers(problem: Problem, stock: int) -> list[Row]:
    found = []
    for name in (one for one in list(PEERS)[1:] if one not in PREDICTING):
        try:
            found.append(over(f"{name} ÷ {STOCK}", peak(peer(name, problem).step), stock))
        except Skipped:
            # Its row is missing then; every other one stands.
            continue
    return found


def peak(step: Callable[[], object]) -> int:
    """Return the bytes of a step that is not the first."""
    step()
    return step_peak(step)


def over(what: str, ours: int, stock: int, most: float | None = None) -> Row:
    """Return one figure; it is the same in every run."""
    return row(what, [ours / stock], most)

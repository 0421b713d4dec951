"""One training step on 16 rows of 64 tokens, over stock peft LoRA in float32 with sdpa and AdamW.

Ours is the step a round takes: draw, forward, backward, gradients of mean, rho and KL, Fisher,
AdamW. Each peer does what it does to the same LoRA (rank 8, on query and value) on the same rows.
SmolLM2 is cut to its first 8 of 30 layers: a ratio of layers that are all alike.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.budget import Budget, Skipped
from benchmarks.machine import target
from benchmarks.ours import HYBRID, LORA, MEASURED, Ours, ours
from benchmarks.paired import Row, over, ratios, row
from benchmarks.peers import PEERS, PREDICTING, Problem, peer
from benchmarks.peers.problem import minilm, smollm2

STOCK = "peft LoRA"
ENCODER, DECODER = "MiniLM", "SmolLM2 (8 layers)"
NOTES = """
In float32 matrix products are 80 % of the stock step, and its own attention and GELU another 13 %.
Ours are of weights laid out once (`bhpeft.methods.laid_out`): 110 GFLOP/s at 1,536 tokens, where a
plain call has 99 and no product measured here had more. That took the step from 0.95 to 0.86; with
every token computed in every layer there is nothing left to save but LoRA's thin products. Where
one token is pooled, the last layer runs for it alone; stock computes every token whatever is
pooled.
A Laplace approximation trains like the stock step and then pays once a minibatch for its curvature:
its figure is one minibatch of `fit`. An ensemble's step is one of each of its five members.
"""


def rows(budget: Budget) -> list[Row]:
    """Return ours and every peer's step over the stock one, on an encoder and a decoder."""
    encoder = budget.of(minilm(), minilm(4, 16, layers=1))
    decoder = budget.of(smollm2(layers=8), smollm2(4, 16, layers=1))
    # A step of laplace-torch is thirty, one of the decoder five: theirs are repeated less often.
    few = replace(budget, least=min(budget.least, 2))
    return [
        *_ours(encoder, ENCODER, budget.share(0.25)),
        *_hybrid(encoder, budget.share(0.15)),
        *_peers(encoder, few.share(0.25)),
        *_ours(decoder, DECODER, few.share(0.35), promised=False),
    ]


def _ours(problem: Problem, name: str, budget: Budget, promised: bool = True) -> list[Row]:
    plain, measured = ours(problem, LORA), ours(problem, LORA, MEASURED)
    first = replace(problem, pooling="first")
    ways = {
        STOCK: peer(STOCK, problem).step,
        "stock bf16": peer("peft LoRA, bfloat16", problem).step,
        "plain": plain.step,
        "measured": measured.step,
    }
    if promised:
        ways["first"] = ours(first, LORA).step
        ways["first, measured"] = ours(first, LORA, MEASURED).step
    found = ratios(ways, budget)
    usual = target(fp32=0.85, bf16=0.28) if promised else None

    def figure(learner: Ours, how: str, times: str, most: float | None) -> Row:
        what = f"{name}: Bayesian LoRA, {learner.arithmetic} ({how}) ÷ {STOCK}"
        return row(what, found[times], most)

    figures = [
        figure(plain, "asked for", "plain", 0.85 if promised else None),
        figure(measured, "as measured here", "measured", usual),
    ]
    if promised:
        figures += [
            figure(plain, "asked for, first token pooled", "first", 0.85),
            figure(measured, "as measured here, first token pooled", "first, measured", usual),
        ]
    return [
        *figures,
        row(f"{name}: {STOCK}, bfloat16 ÷ {STOCK}", found["stock bf16"]),
    ]


def _hybrid(problem: Problem, budget: Budget) -> list[Row]:
    found = ratios(
        {
            STOCK: peer(STOCK, problem).step,
            "point": ours(problem, HYBRID, MEASURED, gaussian=False).step,
            "hybrid": ours(problem, HYBRID, MEASURED).step,
        },
        budget,
    )
    return [
        row(
            f"{ENCODER}: Bayesian hybrid (LoRA, adapter, prefix) ÷ its own point estimate",
            over(found["hybrid"], found["point"]),
            1.04,
        ),
        row(f"{ENCODER}: Bayesian hybrid ÷ {STOCK}", found["hybrid"]),
    ]


def _peers(problem: Problem, budget: Budget) -> list[Row]:
    ways = {STOCK: peer(STOCK, problem).step}
    for name in (one for one in list(PEERS)[2:] if one not in PREDICTING):
        try:
            ways[name] = peer(name, problem).step
        except Skipped:
            # Its row is missing then; every other one stands.
            continue
    found = ratios(ways, budget)
    return [row(f"{ENCODER}: {name} ÷ {STOCK}", found[name]) for name in list(ways)[1:]]

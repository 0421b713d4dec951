"""Time passes of one layer of a model's sizes: layout, rows, threads, and attentions by length.

As in `bhpeft.models.trial_step`, the layer has random weights: what it costs does not depend on
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from bhpeft.methods.attention import EXPLICIT_TOKENS
from bhpeft.methods.laid_out import MOST_BYTES, available, lay_out, linear_bytes
from bhpeft.models.arithmetic import PLAIN, Arithmetic
from bhpeft.models.measured import Way, clock, take_turns
from bhpeft.models.pace import (
    FOLDED_ROWS,
    FOLDS,
    LENGTHS,
    Pace,
    fastest_threads,
    fewest_rows,
    longest,
    most_threads,
    threaded,
)
from bhpeft.models.trial_step import STEP_FLOPS, TOKENS, one_layer, step

# Tokens of a row that is predicted, and repeats, of which the fastest counts.
SHORT, REPEATS, SECONDS = 32, 5, 1.0

# A copy of the weights has to be worth its memory.
WORTH_A_COPY = 1.02


def measured(wanted: Pace, arithmetic: Arithmetic, config: PreTrainedConfig) -> Pace:
    """Return `wanted` with its layout, rows and tokens measured, where it leaves them open."""
    layer, laid_out = _layer(arithmetic, config), wanted.laid_out
    if laid_out is None:
        laid_out = _laid_out(layer, _layer(arithmetic, config), config)
    if laid_out:
        lay_out(layer)
    rows = wanted.folded_rows or _folded_rows(layer)
    tokens = wanted.explicit_tokens or _explicit_tokens(arithmetic, config)
    return replace(wanted, folded_rows=rows, explicit_tokens=tokens, laid_out=laid_out)


def quickest_threads(config: PreTrainedConfig) -> int:
    """Return the fastest number of threads, up to what the process was started with."""
    most, layer = most_threads(), _layer(PLAIN, config)
    counts = [most, *(count for count in (2**power for power in range(8)) if count < most)]

    def counted(count: int) -> Callable[[], object]:
        def run() -> None:
            with threaded(count):
                step(layer, TOKENS)

        return run

    # By the wall's clock: more threads take more of the processor to be done sooner.
    return fastest_threads(_fastest({count: counted(count) for count in counts}, time.perf_counter))


def _layer(arithmetic: Arithmetic, config: PreTrainedConfig) -> PreTrainedModel:
    stock = replace(arithmetic, attention="sdpa")
    layer = one_layer(config, arithmetic) or one_layer(config, stock)
    assert layer is not None, "every model can attend by sdpa"
    return layer


def _laid_out(plain: PreTrainedModel, other: PreTrainedModel, config: PreTrainedConfig) -> bool:
    """Say whether a layer's step is faster with its weights laid out, and there is room for it."""
    layers = int(getattr(config, "num_hidden_layers", None) or 1)
    if not available() or layers * linear_bytes(plain) > MOST_BYTES:
        return False
    lay_out(other)
    seconds = _fastest({one: partial(step, one, TOKENS) for one in (plain, other)})
    return bool(seconds[other] * WORTH_A_COPY < seconds[plain])


def _folded_rows(layer: PreTrainedModel) -> int:
    weights = sum(parameter.numel() for parameter in layer.parameters())
    sizes = [rows for rows in FOLDS if 2 * rows * SHORT * weights <= STEP_FLOPS]
    if len(sizes) < 2:
        # One row fills the units of a layer so large.
        return FOLDED_ROWS
    width = int(layer.get_input_embeddings().weight.shape[1])
    hidden = torch.randn(max(sizes), SHORT, width, generator=torch.Generator().manual_seed(0))
    hidden = hidden.to(layer.dtype)

    def passed(rows: int) -> Callable[[], object]:
        mask = torch.ones(rows, SHORT, dtype=torch.long)

        @torch.no_grad()
        def run() -> None:
            layer(inputs_embeds=hidden[:rows], attention_mask=mask)

        return run

    return fewest_rows(_fastest({rows: passed(rows) for rows in sizes}))


def _explicit_tokens(arithmetic: Arithmetic, config: PreTrainedConfig) -> int:
    """Return up to which length the explicit attention is faster, where it was chosen."""
    ours = one_layer(config, arithmetic) if arithmetic.attention == "explicit" else None
    stock = one_layer(config, replace(arithmetic, attention="sdpa"))
    if ours is None or stock is None:
        return EXPLICIT_TOKENS
    most = int(getattr(config, "max_position_embeddings", None) or max(LENGTHS))
    gains = {}
    for tokens in (length for length in LENGTHS if length <= most):
        ways = {model: partial(step, model, tokens) for model in (ours, stock)}
        seconds = _fastest(ways)
        gains[tokens] = seconds[ours] / seconds[stock]
    return longest(gains, at_least=TOKENS)


def _fastest(
    ways: Mapping[Way, Callable[[], object]], now: Callable[[], float] = clock
) -> dict[Way, float]:
    """Return the fewest seconds of each way, taking turns until the time is up."""
    best = dict.fromkeys(ways, float("inf"))
    began = time.monotonic()
    for run in ways.values():
        run()  # the first one plans its products
    for _ in range(REPEATS):
        take_turns(ways, best, now)
        if time.monotonic() - began > SECONDS:
            break
    return best

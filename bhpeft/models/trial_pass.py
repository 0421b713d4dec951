"""Time passes of one layer of a model's sizes: folded rows, threads, and both attentions by length.

As in `bhpeft.models.trial_step`, the layer has random weights: what it costs does not depend on
them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from bhpeft.methods.attention import EXPLICIT_TOKENS
from bhpeft.models.arithmetic import Arithmetic
from bhpeft.models.pace import (
    FOLDED_ROWS,
    FOLDS,
    LENGTHS,
    Pace,
    fastest_threads,
    fewest_rows,
    longest,
)
from bhpeft.models.trial_step import STEP_FLOPS, TOKENS, one_layer, step

# Tokens of a row that is predicted, and repeats, of which the fastest counts.
SHORT, REPEATS, SECONDS = 32, 3, 1.0


def measured(wanted: Pace, arithmetic: Arithmetic, config: PreTrainedConfig) -> Pace:
    """Return `wanted` with what it leaves open measured: the threads, and the rest with them."""
    stock = replace(arithmetic, attention="sdpa")
    layer = one_layer(config, arithmetic) or one_layer(config, stock)
    assert layer is not None, "every model can attend by sdpa"
    threads = wanted.threads or _threads(layer)
    with _threaded(threads):
        rows = wanted.folded_rows or _folded_rows(layer)
        tokens = wanted.explicit_tokens or _explicit_tokens(arithmetic, config)
    return Pace(threads, rows, tokens)


def _threads(layer: PreTrainedModel) -> int:
    """Return the fastest number of threads, up to what the process was started with."""
    most = torch.get_num_threads()
    counts = [most, *(count for count in (2**power for power in range(8)) if count < most)]
    if len(counts) == 1:
        return most

    def threaded(count: int) -> Callable[[], object]:
        def run() -> None:
            with _threaded(count):
                step(layer, TOKENS)

        return run

    return fastest_threads(_fastest({count: threaded(count) for count in counts}))


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


def _fastest(ways: Mapping[object, Callable[[], object]]) -> dict:  # type: ignore[type-arg]
    """Return the fewest seconds of each way, taking turns until the time is up."""
    best = dict.fromkeys(ways, float("inf"))
    began = time.monotonic()
    for repeat in range(REPEATS + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first one plans its products
                best[name] = min(best[name], time.perf_counter() - start)
        if repeat and time.monotonic() - began > SECONDS:
            break
    return best


@contextmanager
def _threaded(count: int) -> Iterator[None]:
    """Compute with so many threads within a `with` block."""
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)

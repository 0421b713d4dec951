"""Time a training step of one layer of a model's sizes in several arithmetics.

One layer with next to no vocabulary is built from the configuration, with random weights: what a
product costs does not depend on its numbers, and the model itself need not be loaded yet.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import ARCHITECTURES
from bhpeft.methods.attention import has_attention, use_attention
from bhpeft.models.arithmetic import Arithmetic
from bhpeft.models.measured import clock

# Rows and tokens of the step, as in training; fewer rows where a layer is large.
ROWS, TOKENS = 16, 64
# Multiplications and additions of one step: a tenth of a second in float32 on one slow core.
STEP_FLOPS = 1e10
SECONDS, REPEATS = 1.0, 7


def step_seconds(
    config: PreTrainedConfig, candidates: Sequence[Arithmetic]
) -> dict[Arithmetic, float]:
    """Time one layer forward and backward in each arithmetic, interleaved, on the CPU.

    Returns:
        The seconds of the fastest step of each candidate the model supports.

    Raises:
        UnsupportedModel: it supports none of them.
    """
    trials = {one: model for one in candidates if (model := one_layer(config, one)) is not None}
    if not trials:
        raise UnsupportedModel(
            f"A {config.model_type!r} model cannot attend as asked",
            found=f"attention = {candidates[0].attention!r}",
            expected="'sdpa', or 'auto'",
            remedy="Leave `attention` out of the stream file's [model].",
        )
    times: dict[Arithmetic, list[float]] = {one: [] for one in trials}
    began = time.monotonic()
    for repeat in range(REPEATS + 1):
        for one, model in trials.items():
            seconds = step(model)
            if repeat:  # the first one plans its products
                times[one].append(seconds)
        if repeat and time.monotonic() - began > SECONDS:
            break
    # What a neighbour takes only ever makes a step longer.
    return {one: min(seconds) for one, seconds in times.items()}


def one_layer(config: PreTrainedConfig, arithmetic: Arithmetic) -> PreTrainedModel | None:
    """Build one layer of the model's sizes with hardly any vocabulary; None if it cannot attend so.

    The generator everybody shares is put back as it was.
    """
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id, small.num_hidden_layers = 8, 0, 1
    if positions := getattr(small, "max_position_embeddings", None):
        # Room for a step's tokens, and for the two that RoBERTa's padding takes, be texts shorter.
        small.max_position_embeddings = max(positions, TOKENS + 2)
    if getattr(small, "layer_types", None):
        small.layer_types = small.layer_types[:1]
    if hasattr(small, "use_cache"):
        small.use_cache = False
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = AutoModel.from_config(small, dtype=arithmetic.torch_dtype)
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is not None and has_attention(model, architecture):
        use_attention(model, architecture, arithmetic.attention)
    elif arithmetic.attention == "explicit":
        return None
    return model.requires_grad_(False).eval()


def step(model: PreTrainedModel, tokens: int = TOKENS) -> float:
    """Return the seconds of one forward and backward pass, half of the rows padded."""
    weights = sum(p.numel() for p in model.parameters())
    rows = int(min(ROWS, max(1, STEP_FLOPS // (4 * tokens * weights))))
    hidden = _hidden(model, rows, tokens)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[rows // 2 :, tokens * 3 // 4 :] = 0
    began = clock()
    output = model(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
    output.backward(torch.ones_like(output))
    return clock() - began


def _hidden(model: PreTrainedModel, rows: int, tokens: int) -> Tensor:
    width = int(model.get_input_embeddings().weight.shape[1])
    noise = torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(0))
    return noise.to(model.dtype).requires_grad_()

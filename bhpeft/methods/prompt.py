"""Attach prompt tuning: trainable embeddings of virtual tokens before every text.

    hidden = model([P; E(x)])[length:]        P (length, embedding width)

The virtual tokens enter where token embeddings do, so they get positions as tokens have them, and
the text's own positions come after theirs. They leave again with the hidden states: whoever calls
the model gets a hidden state for each token of the text and for nothing else, so pooling, masks and
heads need not know of them. In a cached `generate` they enter with the first step only.

Source: Lester et al. 2021 (arXiv 2104.08691), §2; P starts as embeddings of tokens drawn from the
vocabulary, their §3.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from bhpeft.errors import ModelError
from bhpeft.methods.architectures import Architecture
from bhpeft.methods.sampled import rows_of
from bhpeft.methods.sites import INPUT, Site
from bhpeft.methods.start import beside


class PromptEmbedding(nn.Module):
    """The virtual tokens' embeddings, in float32.

    Attributes:
        measured: the standard deviation of the model's own token embeddings, which the first
            prior's width is a multiple of.
    """

    def __init__(self, table: nn.Embedding, length: int, seed: Generator):
        super().__init__()
        self.length = length
        self.active = True
        self.measured = float(table.weight.detach().float().std())
        tokens = torch.randint(table.num_embeddings, (length,), generator=seed)
        self.embedding = beside(table, lambda: table.weight.detach().float().cpu()[tokens])

    def forward(self, tokens: Tensor) -> Tensor:
        """Put the prompt before token embeddings (rows, tokens, width)."""
        rows = tokens.shape[0]
        prompt: Tensor = self.embedding
        if prompt.ndim == 2:
            prompt = prompt.expand(rows, *prompt.shape)
        return torch.cat([rows_of(prompt, rows).to(tokens.dtype), tokens], dim=1)


@dataclass(frozen=True)
class Prompt:
    """The prompt's settings.

    Attributes:
        length: how many virtual tokens.
    """

    length: int = 8

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Hook the prompt to the model's input and output, and yield its site."""
        inner = model.base_model
        table = inner.get_input_embeddings()
        prompt = PromptEmbedding(table, self.length, generator)
        inner.add_module("bhpeft_prompt", prompt)
        inner.register_forward_pre_hook(_entering(prompt, table), with_kwargs=True)
        inner.register_forward_hook(_leaving(prompt), with_kwargs=True)
        name, width = "input.prompt.embedding", table.embedding_dim
        yield Site(name, "prompt.embedding", prompt, "embedding", width, INPUT)


def _entering(prompt: PromptEmbedding, table: nn.Embedding) -> Any:
    """Return the hook that makes room for the prompt in everything the model is called with."""

    def hook(
        model: PreTrainedModel, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not prompt.active:
            return None
        given = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | options
        first = _is_first(given)
        _check_room(model, given, prompt.length)
        if first:
            ids, embedded = given.pop("input_ids", None), given.get("inputs_embeds")
            given["inputs_embeds"] = prompt(table(ids) if embedded is None else embedded)
        _widen(given, prompt.length, first)
        return (), given

    return hook


def _leaving(prompt: PromptEmbedding) -> Any:
    """Return the hook that takes the virtual tokens out of what the model returns."""

    def hook(
        model: PreTrainedModel, args: tuple[Any, ...], options: dict[str, Any], output: Any
    ) -> Any:
        # In later steps of a cached generation nothing entered, and one token comes back.
        if not prompt.active or options.get("input_ids") is not None:
            return None
        if output["last_hidden_state"].shape[1] < options["inputs_embeds"].shape[1]:
            return None  # the last layer ran for the pooled token only
        output["last_hidden_state"] = output["last_hidden_state"][:, prompt.length :]
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(h[:, prompt.length :] for h in output["hidden_states"])
        if output.get("pooler_output") is not None:
            output["pooler_output"] = model.pooler(output["last_hidden_state"])
        return output

    return hook


def _is_first(given: dict[str, Any]) -> bool:
    cache = given.get("past_key_values")
    return cache is None or cache.get_seq_length() == 0


def _widen(given: dict[str, Any], length: int, first: bool) -> None:
    """Let every token see the prompt, and put the text's positions and types behind it."""
    mask = given.get("attention_mask")
    if mask is not None:
        given["attention_mask"] = torch.cat([mask.new_ones(mask.shape[0], length), mask], dim=1)
    positions = given.get("position_ids")
    if positions is not None:
        before = torch.arange(length, device=positions.device).expand(positions.shape[0], -1)
        behind = positions + length
        given["position_ids"] = torch.cat([before, behind], dim=1) if first else behind
    types = given.get("token_type_ids")
    if types is not None and first:
        # As the first token of the text, which is of the first segment.
        given["token_type_ids"] = torch.cat([types[:, :1].expand(-1, length), types], dim=1)


def _check_room(model: PreTrainedModel, given: dict[str, Any], length: int) -> None:
    """Refuse a text for which a table of learned positions has no rows left.

    Raises:
        ModelError: the text and the prompt together are too long.
    """
    tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
    table = _positions(model)
    if table is None:
        return
    # RoBERTa's rows up to the padding index stand for no position.
    room = table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    if tokens.shape[1] + length > room:
        raise ModelError(
            f"A text and its prompt do not fit into {type(model).__name__}",
            found=f"{tokens.shape[1]} tokens and {length} virtual ones",
            expected=f"at most {room} positions",
            remedy="Lower max_length, or the prompt's length.",
        )


def _positions(model: nn.Module) -> nn.Embedding | None:
    for name in ("embeddings.position_embeddings", "wpe"):
        parent, _, leaf = name.rpartition(".")
        holder = getattr(model, parent, None) if parent else model
        table = getattr(holder, leaf, None)
        if isinstance(table, nn.Embedding):
            return table
    return None

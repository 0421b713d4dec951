"""Run the last layer for the one token that is pooled, against the keys and values of all.

Where a head reads one token a row, nothing the last layer makes of the other tokens is used except
their keys and values. So a hook hands that layer the pooled token alone, (rows, 1, d), and the
attention of ours (`bhpeft.methods.attention`) lets it look at the keys and values of the whole row,
its prefix included. The layer's own code does the rest on one token: queries, projections, norms,
feed-forward, and every method that is attached to them, with gradients and under checkpointing.

The layers below are untouched, and so is a model whose attention is not transformers' interface:
there all tokens are computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bhpeft.methods.architectures import Architecture, layers_of
from bhpeft.methods.attention import ATTENTIONS, KEYS_AND_VALUES, has_attention, use_attention
from bhpeft.methods.sampled import tile
from bhpeft.models.keys_values import keys_and_values
from bhpeft.models.pooling import taken

Attended = tuple[Tensor, Tensor | None]


def last_layer_of(model: PreTrainedModel, architecture: Architecture) -> LastLayer | None:
    """Return the last layer ready to run for one token; None where the model is not made for it.

    Args:
        model: with its methods attached; it attends by ours from here on.
        architecture: where things are in it.
    """
    if not architecture.key_value or not has_attention(model, architecture):
        return None
    if model.config._attn_implementation not in ("sdpa", *ATTENTIONS.values()):
        return None
    use_attention(model, architecture)
    found = LastLayer(model, architecture)
    found.layer.register_forward_pre_hook(found.narrow, with_kwargs=True)
    return found


class LastLayer:
    """The last layer of a model, and for which token of each row it is to run, if for one."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture):
        self.model, self.architecture = model, architecture
        self.layer = layers_of(model, architecture)[-1]
        self.attention = self.layer.get_submodule(str(architecture.attention))
        self._names = list(inspect.signature(self.layer.forward).parameters)
        self._positions: Tensor | None = None
        self._tokens = 0

    @property
    def ready(self) -> bool:
        """Say whether keys and values can be made outside of the attention module.

        A hook on what enters it, put there by a method of somebody else's, would be missed.
        """
        return not self.attention._forward_pre_hooks

    @contextmanager
    def at(self, positions: Tensor, tokens: int) -> Iterator[None]:
        """Run the layer for one token a row, within a `with` block.

        Args:
            positions: (B,), which of the text's tokens.
            tokens: T, how many tokens the text has; what the layer sees before them is a prompt.
        """
        self._positions, self._tokens = positions, tokens
        try:
            yield
        finally:
            self._positions = None

    def narrow(
        self, layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Leave one token a row of what the layer is called with; the hook itself."""
        if self._positions is None:
            return None
        given = dict(zip(self._names, args, strict=False)) | options
        hidden: Tensor = given.pop(self._names[0])
        rows, width = hidden.shape[:2]
        positions = self._positions + (width - self._tokens)
        positions = tile(positions, rows // len(positions))
        rotary = given.get("position_embeddings")
        key, value = keys_and_values(
            self.architecture, self.model, self.attention, self._normed(hidden), rotary
        )
        given["attention_mask"] = self._mask(given.get("attention_mask"), positions, width)
        if rotary is not None:
            given["position_embeddings"] = tuple(_row(x, positions)[:, None] for x in rotary)
        if given.get("position_ids") is not None:
            given["position_ids"] = _row(given["position_ids"], positions)[:, None]
        given[KEYS_AND_VALUES] = _looking_at(key, value)
        return (taken(hidden, positions)[:, None],), given

    def _normed(self, hidden: Tensor) -> Tensor:
        norm = self.architecture.attention_norm
        return hidden if norm is None else self.layer.get_submodule(norm)(hidden)

    def _mask(self, mask: Tensor | None, positions: Tensor, width: int) -> Tensor | None:
        """Return what the one token may look at, (rows, 1, 1, width); None for everything."""
        if mask is None:
            if not getattr(self.attention, "is_causal", False):
                return None
            behind = torch.arange(width, device=positions.device) <= positions[:, None]
            return behind[:, None, None]
        if mask.shape[2] == 1:
            return mask
        return _row(mask.transpose(1, 2), positions)[:, :, None]


def _row(x: Tensor, positions: Tensor) -> Tensor:
    """Return x[b, positions[b]] of x (rows or 1, T, …)."""
    return taken(x.expand(len(positions), *x.shape[1:]), positions)


def _looking_at(key: Tensor, value: Tensor) -> Callable[..., Attended]:
    """Return the attention to these keys and values, (rows, heads, T, head width) each."""

    def attended(
        attend: Callable[..., Attended],
        module: nn.Module,
        query: Tensor,
        mask: Tensor | None,
        **options: Any,
    ) -> Attended:
        return attend(module, query, key, value, mask, **options)

    return attended

"""Run the last layer for the one token that is pooled, against the keys and values of all.

Where a head reads one token a row, nothing the last layer makes of the other tokens is used except
their keys and values. So a hook hands that layer the pooled token alone, (rows, 1, d), and the
attention of ours (`bhpeft.methods.attention`) lets it look at the keys and values of the whole row,
its prefix included. The layer's own code does the rest on one token: queries, projections, norms,
feed-forward, and every method that is attached to them, with gradients and under checkpointing.

Where only the last layer's weights are drawn, the S draws are S such queries a row to keys and
values made once (`bhpeft.models.drawn_attention`): some thirty draws for the price of one pass.
Keys that are drawn *and* turned by rotary positions (ModernBERT's fused projection, LoRA on
`k_proj`) do not come apart; there each draw has keys and values of its own, and still one query.

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
from bhpeft.methods.prefix import key_value_geometry
from bhpeft.methods.sampled import tile
from bhpeft.models.drawn_attention import Attended, drawn_attention
from bhpeft.models.keys_values import Rotary, drawn_keys_and_values, keys_and_values
from bhpeft.models.pooling import taken


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
        self._tokens, self._draws = 0, 1

    @property
    def ready(self) -> bool:
        """Say whether keys and values can be made outside of the attention module.

        A hook on what enters it, put there by a method of somebody else's, would be missed.
        """
        return not self.attention._forward_pre_hooks

    @contextmanager
    def at(self, positions: Tensor, tokens: int, draws: int = 1) -> Iterator[None]:
        """Run the layer for one token a row, within a `with` block.

        Args:
            positions: (B,), which of the text's tokens.
            tokens: T, how many tokens the text has; what the layer sees before them is a prompt.
            draws: S, if this layer is the lowest with drawn weights; then S·B rows leave it.
        """
        self._positions, self._tokens, self._draws = positions, tokens, draws
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
        positions = self._positions.to(hidden.device) + (width - self._tokens)
        positions = tile(positions, rows // len(positions))
        mask = self._mask(given.get("attention_mask"), positions, width)
        given[KEYS_AND_VALUES], mask = self._attention(
            hidden, given.get("position_embeddings"), mask
        )
        given["attention_mask"] = mask
        if given.get("position_embeddings") is not None:
            given["position_embeddings"] = tuple(
                self._one(x, positions) for x in given["position_embeddings"]
            )
        if given.get("position_ids") is not None:
            given["position_ids"] = self._one(given["position_ids"], positions)
        return (self._one(hidden, positions),), given

    def _attention(
        self, hidden: Tensor, rotary: Rotary | None, mask: Tensor | None
    ) -> tuple[Callable[..., Attended], Tensor | None]:
        """Return the attention to all tokens, and the mask it wants."""
        where, draws = (self.architecture, self.model, self.attention), self._draws
        if draws > 1 and not self._norm_hooks:
            apart = drawn_keys_and_values(*where, self._normed(hidden), rotary)
            if apart is not None:
                heads, _ = key_value_geometry(self.model)
                return drawn_attention(*apart, heads), mask
        if draws > 1:
            if rotary is not None and len(hidden) == len(rotary[0]):
                rotary = (tile(rotary[0], draws), tile(rotary[1], draws))
            hidden, mask = tile(hidden, draws), mask if mask is None else tile(mask, draws)
        return _looking_at(*keys_and_values(*where, self._normed(hidden), rotary)), mask

    def _one(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return x (rows or 1, T, …) at each row's position, once a draw, (S·rows, 1, …)."""
        return tile(_row(x, positions)[:, None], self._draws)

    @property
    def _norm_hooks(self) -> bool:
        norm = self.architecture.attention_norm
        return norm is not None and bool(self.layer.get_submodule(norm)._forward_hooks)

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

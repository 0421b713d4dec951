"""Make the keys and values of a layer outside of its attention module.

It is what transformers' attention modules do before they attend, in the same order: project, cut
into heads, norm the keys where the model does, turn them by their rotary positions. The projections
are called as modules, so whatever a method attached to them takes part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bhpeft.methods.architectures import Architecture
from bhpeft.methods.prefix import key_value_geometry
from bhpeft.models.drawn_attention import Projected, projected, separable

Rotary = tuple[Tensor, Tensor]


def keys_and_values(
    architecture: Architecture,
    model: PreTrainedModel,
    attention: nn.Module,
    hidden: Tensor,
    rotary: Rotary | None,
) -> tuple[Tensor, Tensor]:
    """Return the keys and values of every token.

    Args:
        architecture: names the projections.
        model: knows how many heads there are.
        attention: the attention module of a layer.
        hidden: (rows, T, d), what enters it.
        rotary: cosines and sines of the positions, (1 or rows, T, head width) each.

    Returns:
        (rows, key-value heads, T, head width) each.
    """
    projections = [attention.get_submodule(path) for path in architecture.key_value]
    if len(projections) == 1:
        _, flat_key, flat_value = projections[0](hidden).chunk(3, dim=-1)
    else:
        flat_key, flat_value = (projection(hidden) for projection in projections)
    heads, width = key_value_geometry(model)
    shape = (*hidden.shape[:2], heads, width)
    key = positioned(attention, flat_key.view(shape), rotary)
    return key.transpose(1, 2), flat_value.view(shape).transpose(1, 2)


def drawn_keys_and_values(
    architecture: Architecture,
    model: PreTrainedModel,
    attention: nn.Module,
    hidden: Tensor,
    rotary: Rotary | None,
) -> tuple[Projected, Projected] | None:
    """Return the keys and values of every token under all draws, as what they share and the rest.

    None where they do not come apart: a projection holds more than LoRA and BitFit, or what is
    drawn of a key would be normed or turned by its position.
    """
    projections = [attention.get_submodule(path) for path in architecture.key_value]
    if not all(separable(projection) for projection in projections):
        return None
    made = [projected(projection, hidden) for projection in projections]
    key, value = made if len(made) == 2 else made[0].chunk(3)[1:]
    if key.terms:
        return None if _places(attention, rotary) else (key, value)
    heads, width = key_value_geometry(model)
    shared = positioned(attention, key.shared.view(*hidden.shape[:2], heads, width), rotary)
    return Projected(shared.flatten(2)), value


def positioned(attention: nn.Module, key: Tensor, rotary: Rotary | None) -> Tensor:
    """Norm and turn projected keys (rows, T, heads, head width), as far as the model does."""
    if "k_norm" in attention._modules:
        key = attention.get_submodule("k_norm")(key)
    if not _turns(attention, rotary):
        return key
    cos, sin = (x[:, :, None] for x in rotary)  # type: ignore[union-attr]
    return (key * cos + _turned(key) * sin).to(key.dtype)


def _places(attention: nn.Module, rotary: Rotary | None) -> bool:
    return "k_norm" in attention._modules or _turns(attention, rotary)


def _turns(attention: nn.Module, rotary: Rotary | None) -> bool:
    # SmolLM3 leaves positions out of every fourth layer.
    return rotary is not None and bool(getattr(attention, "use_rope", True))


def _turned(x: Tensor) -> Tensor:
    """Return the pairs (x1, x2), half a head apart, as (−x2, x1)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)

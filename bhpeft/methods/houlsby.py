"""Attach the sequential adapters of Houlsby et al.: two a layer, each behind a projection.

    h = y + U gelu(D y + d) + u        D (bottleneck, d), U (d, bottleneck), U = u = d = 0 at first

where y is what the attention's output projection returns, and again what the feed-forward block's
does, before the residual connection and its LayerNorm.

The authors also train the LayerNorms; their biases are `bitfit`'s, in a union with this.

Source: Houlsby et al. 2019 (arXiv 1902.00751), §2.1 and figure 2; U starts at zero, where theirs
starts near it, so that a fresh adapter is the identity to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import Architecture, Layers, chosen_layers, layers_of
from bhpeft.methods.parameterisation import Names, Sizes, factor_sites, place_factors
from bhpeft.methods.sampled import sampled_linear
from bhpeft.methods.sites import Site
from bhpeft.methods.start import beside

NAMES = Names(down="down", up="up")


class SequentialBottleneck(nn.Module):
    """The adapter's map y ↦ U gelu(D y + d) + u, in float32 whatever the dtype of y.

    d stands on D's side: where D is frozen there is none, and the map is linear in what is learned.
    """

    down: Tensor
    up: Tensor
    core: Tensor | None
    down_bias: Tensor | None

    def __init__(self, place: nn.Module, width: int, settings: Houlsby, seed: Generator):
        super().__init__()
        self.active = True
        self.sizes = Sizes(width, settings.bottleneck, width)
        place_factors(self, place, NAMES, self.sizes, settings.parameterisation, seed)
        learned = isinstance(self.down, nn.Parameter)
        shift = beside(place, lambda: torch.zeros(settings.bottleneck)) if learned else None
        self.register_parameter("down_bias", shift)
        self.up_bias = beside(place, lambda: torch.zeros(width))

    def forward(self, y: Tensor) -> Tensor:
        """Map y (rows, …, d) to what is added to it."""
        low = F.gelu(sampled_linear(y.to(self.down.dtype), self.down, self.down_bias))
        if self.core is not None:
            low = sampled_linear(low, self.core)
        return sampled_linear(low, self.up, self.up_bias).to(y.dtype)


@dataclass(frozen=True)
class Houlsby:
    """The adapters' settings.

    Attributes:
        bottleneck: their inner width; the smallest of the paper's 8, 64 and 256.
        layers: None for all, n for the top n, or a tuple of indices.
        parameterisation: which factors are learned, a key of `PARAMETERISATIONS`.
    """

    bottleneck: int = 8
    layers: Layers = None
    parameterisation: str = "blob"

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Hook an adapter to both projections of each layer, and yield the sites of its weights.

        Raises:
            UnsupportedModel: the architecture does not name the projections.
        """
        layers = layers_of(model, architecture)
        for index in chosen_layers(self.layers, len(layers)):
            for place, path in _projections(layers[index], architecture).items():
                projection = layers[index].get_submodule(path)
                width = model.config.hidden_size
                adapter = SequentialBottleneck(projection, width, self, generator)
                layers[index].add_module(f"bhpeft_houlsby_{place}", adapter)
                projection.register_forward_hook(_following(adapter))
                yield from _sites(f"{index}.{place}.houlsby", adapter, index)


def _sites(name: str, adapter: SequentialBottleneck, layer: int) -> Iterator[Site]:
    yield from factor_sites(adapter, name, "houlsby", NAMES, adapter.sizes, layer)
    for leaf in ("down_bias", "up_bias"):
        if adapter._parameters[leaf] is not None:
            yield Site(f"{name}.{leaf}", f"houlsby.{leaf}", adapter, leaf, 1, layer)


def _projections(layer: nn.Module, architecture: Architecture) -> dict[str, str]:
    attention = architecture.attention_projection
    feed_forward = architecture.feed_forward_projection
    if attention is None or feed_forward is None:
        raise UnsupportedModel(
            f"A Houlsby adapter has no projections to follow in a {type(layer).__name__}",
            expected="an Architecture with `attention_projection` and `feed_forward_projection`",
            remedy="Name them in ARCHITECTURES, or use lora or prefix.",
        )
    return {"attention": attention, "ffn": feed_forward}


def _following(adapter: SequentialBottleneck) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return output + adapter(output) if adapter.active else None

    return hook

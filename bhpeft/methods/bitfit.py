"""Attach BitFit: train what is added to the model's own biases, and nothing else.

    y = W x + b + δ        δ (out,), δ = 0 at the start

A bias is added to a module's output, so δ is added there too: linear modules and LayerNorms alike,
and the frozen b stays where the checkpoint has it.

A key's bias shifts all of a query's attention scores alike, which the softmax takes out again
(except under rotary positions): its δ is part of the method as published and stays at its prior.

Source: Zaken et al. 2021 (arXiv 2106.10199), §3; the paper's smaller variant is
`target_modules=("query", "intermediate.dense")`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import Architecture, Layers, chosen_layers, layers_of
from bhpeft.methods.lora import LoRALinear
from bhpeft.methods.sampled import sampled_shift
from bhpeft.methods.sites import Site
from bhpeft.methods.start import beside


class BiasDelta(nn.Module):
    """What is added to the bias of the module it sits in, in float32."""

    def __init__(self, place: nn.Module, width: int):
        super().__init__()
        self.active = True
        self.delta = beside(place, lambda: torch.zeros(width))

    def forward(self, y: Tensor) -> Tensor:
        """Add δ to y (rows, …, out), the output of the module."""
        return sampled_shift(y.to(self.delta.dtype), self.delta).to(y.dtype)


@dataclass(frozen=True)
class BitFit:
    """BitFit's settings.

    Attributes:
        target_modules: whose biases, by the modules' last name ("query") or by their path inside a
            layer ("intermediate.dense"); empty for every bias of the layer.
        layers: None for all, n for the top n, or a tuple of indices.
    """

    target_modules: tuple[str, ...] = ()
    layers: Layers = None

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Hook a δ to each module that has a bias, and yield its site.

        Raises:
            UnsupportedModel: the layers have no biases, or a target has none.
        """
        layers = layers_of(model, architecture)
        for index in chosen_layers(self.layers, len(layers)):
            for place, width in self._places(layers[index]).items():
                module = layers[index].get_submodule(place)
                delta = BiasDelta(module, width)
                module.add_module("bhpeft_bitfit", delta)
                # First of all hooks: a Houlsby adapter reads the output with its bias.
                module.register_forward_hook(_adding(delta), prepend=True)
                # A bias has one input, which is always 1.
                name = f"{index}.{place}.bitfit.delta"
                yield Site(name, "bitfit.delta", delta, "delta", 1, index)

    def _places(self, layer: nn.Module) -> dict[str, int]:
        """Return the widths of the biases that are trained, by their module's path in the layer."""
        biased = _biased(layer)
        if not biased:
            raise UnsupportedModel(
                f"BitFit has no biases to train in a {type(layer).__name__}",
                expected="a model with biases, such as bert, roberta, distilbert or gpt2",
                remedy="Leave bitfit out and use lora, adapter or prefix on this model.",
            )
        if not self.target_modules:
            return biased
        chosen: dict[str, int] = {}
        for target in self.target_modules:
            matches = {p: w for p, w in biased.items() if p == target or p.endswith(f".{target}")}
            if not matches:
                raise UnsupportedModel(
                    f"BitFit's target {target!r} has no bias in a {type(layer).__name__}",
                    expected="one of " + ", ".join(biased),
                    remedy="Correct target_modules, or leave it empty for every bias.",
                )
            chosen |= matches
        return chosen


def _biased(layer: nn.Module) -> dict[str, int]:
    """Return the width of every frozen bias; another method's own biases are trainable.

    Where LoRA wraps a module, the wrapper stands for it: its sum is where δ belongs as well.
    """
    found = {}
    for path, module in layer.named_modules():
        bias = module._parameters.get("bias")
        if bias is not None and not bias.requires_grad:
            parent = path.rpartition(".")[0]
            wrapped = isinstance(layer.get_submodule(parent), LoRALinear)
            found[parent if wrapped else path] = bias.numel()
    return found


def _adding(delta: BiasDelta) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return delta(output) if delta.active else None

    return hook

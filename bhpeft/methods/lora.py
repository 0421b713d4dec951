"""Attach LoRA: a frozen linear map plus a trainable one of low rank.

    y = W x + (alpha / rank) · B A x        A (rank, in), B (out, rank), B = 0 at the start

Source: Hu et al. 2021 (arXiv 2106.09685), equation 3; the scaling is theirs too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from bhpeft.errors import UnsupportedModel
from bhpeft.methods.architectures import (
    Architecture,
    Layers,
    chosen_layers,
    layers_of,
)
from bhpeft.methods.laid_out import LaidOutLinear
from bhpeft.methods.low_rank import low_rank_linear
from bhpeft.methods.parameterisation import Names, Sizes, factor_sites, place_factors
from bhpeft.methods.sampled import sampled_linear
from bhpeft.methods.sites import Site

NAMES = Names(down="a", up="b")


class LoRALinear(nn.Module):
    """A frozen linear module `base` with B A beside it, which computes in the dtype of x."""

    a: Tensor
    b: Tensor
    core: Tensor | None

    def __init__(self, base: nn.Module, settings: LoRA, generator: Generator):
        super().__init__()
        self.base = base
        self.in_features, self.out_features = linear_sizes(base)
        self.sizes = Sizes(self.in_features, settings.rank, self.out_features)
        self.scaling = settings.alpha / settings.rank
        self.active = True
        place_factors(self, base, NAMES, self.sizes, settings.parameterisation, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (rows, …, in) to (rows, …, out)."""
        if not self.active:
            return self.base(x)
        base = self.base
        if isinstance(base, nn.Linear) and self._fuses(base):
            laid_out = base if isinstance(base, LaidOutLinear) and base.serves(x) else None
            return low_rank_linear(
                x, base.weight, base.bias, self.a, self.outer, self.scaling, laid_out
            )
        low = sampled_linear(x, self.a.to(x.dtype))
        if self.core is not None:
            low = sampled_linear(low, self.core.to(x.dtype))
        added = sampled_linear(low, (self.scaling * self.b).to(x.dtype))
        y: Tensor = base(x)
        return y + added

    @property
    def outer(self) -> Tensor:
        """Return B, with the core multiplied in where there is one, (…, out, rank)."""
        return self.b if self.core is None else self.b @ self.core

    def _fuses(self, base: nn.Linear) -> bool:
        """Say whether one fused function does it: in training, with one draw, on a plain module.

        GPT-2's transposed module, a base with a method of its own inside and a stack of draws take
        the plain path, and so does what needs no gradients: it would gain nothing.
        """
        plain = torch.is_grad_enabled() and not base._forward_hooks
        return plain and self.a.ndim == self.outer.ndim == 2


@dataclass(frozen=True)
class LoRA:
    """LoRA's settings, under Hugging Face's names.

    Attributes:
        rank: of the added map.
        alpha: the added map is scaled by alpha / rank.
        target_modules: which linear modules, by their last name ("query") or by their path inside
            a layer ("attention.output.dense"); empty for the architecture's query and value.
        layers: None for all, n for the top n, or a tuple of indices.
        parameterisation: which factors are learned, a key of `PARAMETERISATIONS`.
    """

    rank: int = 8
    alpha: float = 16.0
    target_modules: tuple[str, ...] = ()
    layers: Layers = None
    parameterisation: str = "blob"

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterator[Site]:
        """Replace the target modules, and yield the sites of what is learned of A and B.

        Raises:
            UnsupportedModel: a target is not in a layer, or is not a linear module.
        """
        layers = layers_of(model, architecture)
        targets = self.target_modules or architecture.target_modules
        for index in chosen_layers(self.layers, len(layers)):
            for place, path in _places(layers[index], targets):
                module = LoRALinear(_linear(layers[index], path), self, generator)
                parent, _, leaf = path.rpartition(".")
                setattr(layers[index].get_submodule(parent), leaf, module)
                name = f"{index}.{place}.lora"
                yield from factor_sites(module, name, "lora", NAMES, module.sizes, index)


def linear_sizes(module: nn.Module) -> tuple[int, int]:
    """Return (in, out) of an nn.Linear or of GPT-2's transposed one."""
    rows, columns = module.get_parameter("weight").shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _places(layer: nn.Module, targets: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return (place, path) of every target; the place is the short name where that is unique."""
    paths = [path for path, _ in layer.named_modules() if path]
    found = []
    for target in targets:
        matches = [path for path in paths if path == target or path.endswith(f".{target}")]
        if not matches:
            raise UnsupportedModel(
                f"LoRA's target {target!r} is not in a {type(layer).__name__}",
                expected="one of " + ", ".join(sorted(_linear_names(layer))),
                remedy="Correct target_modules, or leave it empty for query and value.",
            )
        found += [(target if len(matches) == 1 else path, path) for path in matches]
    return found


def _linear(layer: nn.Module, path: str) -> nn.Module:
    module = layer.get_submodule(path)
    if not isinstance(module, nn.Linear | Conv1D):
        raise UnsupportedModel(
            f"LoRA's target {path!r} is not a linear module",
            found=type(module).__name__,
            expected="one of " + ", ".join(sorted(_linear_names(layer))),
            remedy="Correct target_modules, or give two LoRA methods different targets.",
        )
    return module


def _linear_names(layer: nn.Module) -> set[str]:
    return {
        path.rpartition(".")[2]
        for path, module in layer.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }

"""Run the layers below the lowest adapted one apart from those above it.

No method sits in them, so what they make of a row is the same in every epoch and under every draw.
`hidden` runs them alone; within `instead` the model starts above them, from what they made before.

The model's own code runs in both cases, masks and positions included. The layers that are to be
left out hand on what they are given, and a hook on the first adapted one puts in or takes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class FrozenLayers:
    """The first `count` layers of a model, in which nothing is trained."""

    def __init__(self, model: Any, layers: Sequence[nn.Module], count: int):
        self.model, self.count = model, count
        self._below, self._above = layers[:count], layers[count:]

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return what enters the lowest adapted layer, (B, T, d)."""
        taken: list[Tensor] = []

        def take(layer: nn.Module, args: tuple[Any, ...]) -> None:
            taken.append(args[0])

        handle = self._above[0].register_forward_pre_hook(take)
        try:
            with _handing_on(self._above):
                self.model(input_ids=ids, attention_mask=mask)
        finally:
            handle.remove()
        return taken[0]

    @contextmanager
    def instead(self, hidden: Tensor) -> Iterator[None]:
        """Let the lowest adapted layer be entered by `hidden` (B, T, d), within a `with` block."""

        def put(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (hidden, *args[1:])

        # Before the hooks that are there: they tile and narrow what enters.
        handle = self._above[0].register_forward_pre_hook(put, prepend=True)
        try:
            with _handing_on(self._below):
                yield
        finally:
            handle.remove()


@contextmanager
def _handing_on(layers: Sequence[Any]) -> Iterator[None]:
    """Let layers hand on their first argument and compute nothing."""
    try:
        for layer in layers:
            layer.forward = _first
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _first(hidden: Tensor, *args: Any, **options: Any) -> Tensor:
    return hidden

"""Tile a minibatch over the draws as late in a model as is exact.

Below the lowest layer that holds a drawn weight, all S copies of a minibatch would compute the
same thing. So those layers see its B rows once, and a hook on the first drawn layer repeats the
hidden states S times, draws-major; hooks on it and on the layers above repeat what else has a row
for each example (the attention mask). Nothing below needs gradients either, so autograd keeps
nothing of it. Hooks run outside of gradient checkpointing, so a recomputed layer gets the tiled
input that was stored, once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from bhpeft.methods.sampled import tile


@dataclass
class Fold:
    """What the layers' hooks are to do during the forward pass that is running.

    Attributes:
        draws: S; 1 when nothing is to be tiled.
        rows: B, by which per-example tensors are recognised.
        layer: the first layer that sees S·B rows.
    """

    draws: int = 1
    rows: int = 0
    layer: int = 0
    _tiled: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def hook(self, layers: Sequence[nn.Module]) -> None:
        """Put the hooks on a model's layers, once."""
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(self._before(index), with_kwargs=True)

    @contextmanager
    def over(self, draws: int, rows: int, layer: int) -> Iterator[None]:
        """Tile `rows` rows to `draws` times as many from `layer` on, within a `with` block."""
        self.draws, self.rows, self.layer = draws, rows, layer
        try:
            yield
        finally:
            self.draws = 1
            self._tiled.clear()

    def _before(self, index: int) -> Any:
        def hook(
            layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if self.draws == 1 or index < self.layer:
                return None
            hidden, rest = args[0], args[1:]
            if index == self.layer:
                hidden = tile(hidden, self.draws)
            fitted = {key: self._fit(value) for key, value in options.items()}
            return (hidden, *(self._fit(value) for value in rest)), fitted

        return hook

    def _fit(self, value: Any) -> Any:
        """Tile a tensor with a row for each example, once a forward pass; leave the rest as is.

        With one example, what is shared by all rows is tiled too, which changes nothing.
        """
        if isinstance(value, tuple):
            return tuple(self._fit(one) for one in value)
        if not isinstance(value, Tensor) or value.shape[:1] != (self.rows,):
            return value
        if id(value) not in self._tiled:
            # The original is kept too: its id must not be given to another tensor meanwhile.
            self._tiled[id(value)] = (value, tile(value, self.draws))
        return self._tiled[id(value)][1]

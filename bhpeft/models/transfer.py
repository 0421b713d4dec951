"""Move minibatches to the device while it is busy with the one before.

On CUDA a minibatch is copied into page-locked memory and sent from there without waiting, one
ahead of the one in use; elsewhere there is nowhere to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor


def on_device(
    minibatches: Iterable[Mapping[str, Tensor]], device: torch.device
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the minibatches, their tensors on `device`."""
    if device.type != "cuda":
        yield from minibatches
        return
    yield from _ahead(_sent(minibatch, device) for minibatch in minibatches)


def _sent(minibatch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {
        name: tensor.pin_memory().to(device, non_blocking=True)
        for name, tensor in minibatch.items()
    }


def _ahead(sent: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Yield each only after the one behind it is on its way."""
    waiting = next(sent, None)
    while waiting is not None:
        following = next(sent, None)
        yield waiting
        waiting = following

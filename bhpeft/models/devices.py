"""Say where a model computes: on one device, or with its layers spread over several GPUs.

    model.to(device)                         everything on one
    model.spread([cuda:0, cuda:1])           a base that no single GPU holds

Spread, the layers lie on the devices in order, on each as much as it has room for; embeddings, the
final norm and the head are on the first. What enters a layer is moved to it and what leaves the
last one is moved back, so nothing outside of the layers knows of it, and weights that are put in
place for a draw go where their site is. The devices work one after the other: what is gained is
room, not speed. Several processes that share every layer are quicker (`bhpeft.models.sharding`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from bhpeft.errors import ModelError
from bhpeft.methods import Sites
from bhpeft.methods.sites import INPUT

Devices = str | Sequence[str]

AUTO = "auto"


def devices_here(said: Devices = AUTO) -> tuple[torch.device, ...]:
    """Return the devices a stream file names, the first one being where rows go.

    Args:
        said: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda", "cuda:1", or several of
            the latter, over which the layers are spread.

    Raises:
        ModelError: this machine does not have them.
    """
    if said == AUTO:
        return (torch.device("cuda" if torch.cuda.is_available() else "cpu"),)
    names = [said] if isinstance(said, str) else list(said)
    wanted = tuple(torch.device(name) for name in names)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in wanted:
        if device.type == "cuda" and (device.index or 0) >= there:
            known = ", ".join(f"cuda:{number}" for number in range(there))
            raise ModelError(
                f"This machine has no device {str(device)!r}",
                found=known or "no CUDA device",
                expected="the devices that the stream file's model.device names",
                remedy='Say device = "auto", or give the stream a queue whose workers have them: '
                "compute.queue.",
            )
    return wanted


def shares(sizes: Sequence[int], beside: int, room: Sequence[int]) -> list[int]:
    """Return on which device each layer goes: in order, each device filled by the same part.

    Args:
        sizes: bytes of each layer.
        beside: bytes outside of the layers, which the first device has too.
        room: free bytes of each device.
    """
    part = (beside + sum(sizes)) / sum(room)
    ends = [part * filled for filled in accumulate(room)]
    places, below = [], beside
    for size in sizes:
        # Half of a layer may stick out: the next device then has so much less.
        middle = below + size / 2
        places.append(next((n for n, end in enumerate(ends) if middle <= end), len(room) - 1))
        below += size
    return places


class Spread:
    """A model whose layers are on several devices.

    Attributes:
        places: the device of each layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        devices: Sequence[torch.device],
        room: Sequence[int],
    ):
        sizes, first = [bytes_of(layer) for layer in layers], devices[0]
        chosen = shares(sizes, bytes_of(model) - sum(sizes), room)
        self.places = [devices[place] for place in chosen]
        inside = {id(module) for layer in layers for module in layer.modules()}
        for module in model.modules():
            if id(module) not in inside:
                module._apply(  # type: ignore[no-untyped-call]
                    lambda tensor: tensor.to(first), recurse=False
                )
        # Before what else is hooked to a layer: that tiles and narrows on the layer's own device.
        self._hooks: list[Any] = [
            layer.to(place).register_forward_pre_hook(_mover(place), with_kwargs=True, prepend=True)
            for layer, place in zip(layers, self.places, strict=True)
        ]
        self._hooks.append(layers[-1].register_forward_hook(lambda *call: moved(call[-1], first)))

    def at_home(self, sites: Sites, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights where the layers of their sites are."""
        layers = {name: sites[name].layer for name in weights if name in sites}
        return {
            name: tensor
            if (at := layers.get(name)) in (None, INPUT)
            else tensor.to(self.places[at])
            for name, tensor in weights.items()
        }

    def remove(self) -> None:
        """Take the hooks off; the layers stay where they are."""
        for hook in self._hooks:
            hook.remove()


def moved(value: Any, device: torch.device) -> Any:
    """Return tensors, or tuples and mappings of them, on a device; anything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple):
        return tuple(moved(one, device) for one in value)
    if isinstance(value, Mapping):
        return {name: moved(one, device) for name, one in value.items()}
    return value


def bytes_of(module: nn.Module) -> int:
    """Return how many bytes a module's tensors take."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def free_bytes(device: torch.device) -> int:
    """Return how much room a GPU has."""
    return int(torch.cuda.mem_get_info(device)[0])


def _mover(place: torch.device) -> Any:
    def move(layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return moved(args, place), moved(options, place)

    return move

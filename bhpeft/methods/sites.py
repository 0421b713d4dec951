"""Name every trainable weight of a model, and put drawn tensors in their place for a while.

    with swapped(sites, draw):
        loss = …        # forward
        loss.backward() # and backward, inside

The scope has to cover the backward pass too: under gradient checkpointing the backward pass runs
the forward again, and must see the same weights. It is a few dictionary operations a weight:
`nn.Module` looks parameters up in a dictionary, and a plain tensor, with or without a graph
behind it and with or without a leading draw dimension, serves there as well as a parameter.

Source: method notes §2, "scope, not call".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bhpeft.errors import ConfigError, StateError, did_you_mean

# The layer of what enters before the first layer; its names start with "input.".
INPUT = -1


@dataclass(frozen=True)
class Site:
    """One trainable weight of a method, and where in the model it sits.

    Attributes:
        name: "<layer>.<place>.<method>.<leaf>", such as "3.query.lora.a", or "head.weight".
        part: the kind of weight, the same in every layer: "lora.a", "prefix.key", "head.weight".
        module: the module that owns it.
        attribute: under which name the module owns it.
        fan_in: how many inputs each of its outputs sums over; what prior widths scale by.
        layer: the layer it sits in, counted from the input; INPUT below the first one, None above
            the last.
    """

    name: str
    part: str
    module: nn.Module
    attribute: str
    fan_in: int
    layer: int | None = None

    @property
    def tensor(self) -> Tensor:
        """Return what the module uses now: its parameter, or what `swapped` put in its place."""
        found: Tensor = getattr(self.module, self.attribute)
        return found


class Sites:
    """All trainable weights of an adapted model by name, in the order they were attached."""

    def __init__(self, sites: Iterable[Site]):
        self._sites: dict[str, Site] = {}
        for site in sites:
            if site.name in self._sites:
                raise ConfigError(
                    f"Two methods both want the name {site.name!r}",
                    expected="each method once, or on layers and modules of its own",
                    remedy="Remove one of them, or give them different layers or target_modules.",
                )
            self._sites[site.name] = site
        # Taken now, while parameters are in place: a swapped tensor may carry a draw dimension.
        self.shapes = {name: tuple(site.tensor.shape) for name, site in self._sites.items()}

    def __getitem__(self, name: str) -> Site:
        return self._sites[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, name: object) -> bool:
        return name in self._sites

    def __add__(self, other: Sites) -> Sites:
        return Sites([*self._sites.values(), *other._sites.values()])

    def items(self) -> Iterable[tuple[str, Site]]:
        """Return (name, site) pairs."""
        return self._sites.items()

    def values(self) -> dict[str, Tensor]:
        """Return the tensors in use now, by name."""
        return {name: site.tensor for name, site in self._sites.items()}

    @property
    def parts(self) -> dict[str, str]:
        """Return the part of every name."""
        return {name: site.part for name, site in self._sites.items()}

    @property
    def frozen(self) -> dict[str, Tensor]:
        """Return the methods' own factors that are not learned, by name: a chain's coordinates."""
        return {
            f"{name.rpartition('.')[0]}.{leaf}": tensor
            for name, site in self._sites.items()
            for leaf, tensor in site.module.named_buffers(recurse=False)
        }

    @property
    def draws(self) -> int | None:
        """Return the S of the drawn tensors now in place, or None where nothing is drawn."""
        drawn = self._drawn()
        return next(iter(drawn.values())) if drawn else None

    @property
    def lowest_drawn(self) -> int | None:
        """Return the lowest layer with a drawn tensor, or INPUT; None above the last layer."""
        layers = [layer for name in self._drawn() if (layer := self[name].layer) is not None]
        return min(layers) if layers else None

    def one_draw(self, index: int) -> dict[str, Tensor]:
        """Return the tensors in use with one draw chosen where there are several."""
        drawn = self._drawn()
        return {name: t[index] if name in drawn else t for name, t in self.values().items()}

    def _drawn(self) -> dict[str, int]:
        return {
            name: tensor.shape[0]
            for name, tensor in self.values().items()
            if tensor.ndim == len(self.shapes[name]) + 1
        }


@contextmanager
def swapped(sites: Sites, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Use `weights` in place of the parameters they name, for the length of a `with` block.

    Args:
        sites: where the weights belong.
        weights: tensors by name; any subset of the sites. Each has its site's shape, with or
            without one leading dimension of S draws, the same S for all that have one.

    Raises:
        StateError: a weight is unknown or misshapen; nothing was swapped.
    """
    check_weights(sites, weights)
    kept: list[tuple[Site, Tensor]] = []
    try:
        for name, tensor in weights.items():
            site = sites[name]
            kept.append((site, site.tensor))
            site.module._parameters[site.attribute] = tensor  # type: ignore[assignment]
        yield
    finally:
        for site, tensor in reversed(kept):
            site.module._parameters[site.attribute] = tensor  # type: ignore[assignment]


@contextmanager
def bypassed(sites: Sites) -> Iterator[None]:
    """Leave the methods out, so that the model is the frozen base, for a `with` block.

    Every module of a method has a flag `active` which its forward pass obeys.
    """
    modules: dict[int, Any] = {id(site.module): site.module for _, site in sites.items()}
    switched = [module for module in modules.values() if getattr(module, "active", False)]
    try:
        for module in switched:
            module.active = False
        yield
    finally:
        for module in switched:
            module.active = True


def check_weights(sites: Sites, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that do not fit the sites.

    Raises:
        StateError: naming the first weight that is unknown, misshapen or of another S.
    """
    seen: dict[int, str] = {}
    for name, tensor in weights.items():
        if name not in sites:
            raise StateError(
                f"The model has no weight called {name!r}",
                found=f"{len(sites)} weights",
                remedy=did_you_mean(name, sites),
            )
        shape, expected = tuple(tensor.shape), sites.shapes[name]
        if shape != expected and shape[1:] != expected:
            raise StateError(
                f"The weight {name!r} does not fit its site",
                found=f"shape {shape}",
                expected=f"shape {expected}, or (S, {', '.join(map(str, expected))}) for S draws",
                remedy="Use the base model, methods and sizes the weights were made for.",
            )
        if len(shape) == len(expected) + 1:
            seen.setdefault(shape[0], name)
    if len(seen) > 1:
        raise StateError(
            "The weights come from different numbers of draws",
            found=", ".join(f"{draws} for {name!r}" for draws, name in seen.items()),
            expected="one number of draws S for all drawn weights",
            remedy="Draw all of them together.",
        )


def block_of(name: str) -> str:
    """Return the method and layer of a weight: "3.query.lora.a" is in block "lora 3"."""
    layer, *rest = name.split(".")
    return f"{rest[-2]} {layer}" if len(rest) > 1 else layer

"""PEFT methods: ordinary deterministic modules, any union of which attaches to a base model.

A method is a frozen dataclass of settings with

    attach(model, architecture, generator) -> Iterable[Site]

that changes the model in place and yields the trainable weights it added. To add one, write such
a class and name it in a stream file as `package.module:Class`, or add one line to `METHODS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from torch import Generator
from transformers import PreTrainedModel

from bhpeft.errors import ConfigError, did_you_mean
from bhpeft.methods.adapter import ParallelAdapter
from bhpeft.methods.architectures import ARCHITECTURES, Architecture, architecture_of
from bhpeft.methods.bitfit import BitFit
from bhpeft.methods.houlsby import Houlsby
from bhpeft.methods.lora import LoRA
from bhpeft.methods.parameterisation import PARAMETERISATIONS
from bhpeft.methods.prefix import Prefix
from bhpeft.methods.prompt import Prompt
from bhpeft.methods.sampled import sampled_linear
from bhpeft.methods.sites import Site, Sites, block_of, bypassed, swapped
from bhpeft.plugins import resolve

__all__ = [
    "METHODS",
    "PARAMETERISATIONS",
    "Method",
    "LoRA",
    "ParallelAdapter",
    "Prefix",
    "Prompt",
    "BitFit",
    "Houlsby",
    "method",
    "attach",
    "Site",
    "Sites",
    "swapped",
    "bypassed",
    "block_of",
    "sampled_linear",
    "ARCHITECTURES",
    "Architecture",
    "architecture_of",
]


class Method(Protocol):
    """What a method has to offer."""

    def attach(
        self, model: PreTrainedModel, architecture: Architecture, generator: Generator
    ) -> Iterable[Site]:
        """Change the model in place, and yield the trainable weights that were added."""
        ...


METHODS: dict[str, type[Any]] = {
    "lora": LoRA,
    "adapter": ParallelAdapter,
    "prefix": Prefix,
    "prompt": Prompt,
    "bitfit": BitFit,
    "houlsby": Houlsby,
}


def method(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """Return the method called `name` with its settings, as a stream file spells them.

    Args:
        name: a key of `METHODS`, or `package.module:Class`.
        settings: its fields by name; lists become tuples.

    Raises:
        UnknownName: nobody knows the method.
        ConfigError: a setting is unknown.
    """
    config = resolve("method", name, METHODS)
    known = {field.name for field in fields(config)}
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in (settings or {}).items()
    }
    for key in given:
        if key not in known:
            raise ConfigError(
                f"The method {name!r} has no setting {key!r}",
                expected=f"one of {', '.join(sorted(known))}",
                remedy=did_you_mean(key, known),
            )
    made: Method = config(**given)
    return made


def attach(model: PreTrainedModel, methods: Sequence[Method], generator: Generator) -> Sites:
    """Freeze the model and attach the methods, in order, but LoRA before all others.

    It replaces modules, so what hooks onto modules has to find them as they will be.

    Args:
        model: changed in place; its own parameters stop requiring gradients.
        methods: any union of them.
        generator: on the CPU; fixes how the new weights start.

    Returns:
        The weights that were added, which require gradients.

    Raises:
        UnsupportedModel: the architecture is unknown, or a method has no place in it.
        ConfigError: two methods want the same place.
    """
    architecture = architecture_of(model)
    model.requires_grad_(False)
    ordered = sorted(methods, key=lambda one: not isinstance(one, LoRA))
    sites = [site for one in ordered for site in one.attach(model, architecture, generator)]
    return Sites(sites)

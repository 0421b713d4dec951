"""Find a plug-in by its short name in one plain dict, or by `package.module:attribute`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TypeVar

from bhpeft.errors import UnknownName, did_you_mean

T = TypeVar("T")


def resolve(kind: str, name: str, known: Mapping[str, T]) -> T:
    """Return the plug-in called `name`.

    Args:
        kind: what is looked for, for the error ("gate", "variant", …).
        name: a key of `known`, or `package.module:attribute`.
        known: the plug-ins that ship with bhpeft.

    Raises:
        UnknownName: neither a known name nor an importable attribute; lists what is known.
    """
    if name in known:
        return known[name]
    if ":" in name:
        return _imported(kind, name)
    raise UnknownName(
        f"There is no {kind} called {name!r}",
        expected=f"one of {', '.join(sorted(known))}, or package.module:attribute",
        remedy=did_you_mean(name, known),
    )


def _imported(kind: str, path: str) -> T:  # type: ignore[type-var]
    module_name, _, attribute = path.partition(":")
    try:
        if not module_name or module_name.startswith("."):
            raise ImportError(f"{module_name!r} is not a module's full name")
        found: T = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as problem:
        raise UnknownName(
            f"The {kind} {path!r} cannot be imported",
            found=str(problem),
            expected="an importable package.module:attribute",
            remedy="Install the package in this environment, or correct the name.",
        ) from problem
    return found

"""What is predicted: everything that differs from one task to the next, as one value in one dict.

task              what a task has to say: the interface
scored            what judging needs to know of rows a model was tried on
classification    one of several labels
regression        a number
causal_lm         the next token of a text
choice            one of a row's own options, by a causal language model
chosen            what only options have: chance, margin, the places that are chosen

To add a task: write a frozen dataclass with the methods of `Task`, and add a line to `TASKS`, or
name it in the stream file as `package.module:Class`. Importing this loads no torch, since the
contract is read long before anything is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bhpeft.errors import ConfigError, did_you_mean
from bhpeft.plugins import resolve
from bhpeft.tasks.causal_lm import CausalLM
from bhpeft.tasks.choice import Choice
from bhpeft.tasks.classification import Classification
from bhpeft.tasks.regression import Regression
from bhpeft.tasks.scored import Figures, Headline, Quality, Scored
from bhpeft.tasks.task import Needs, Task

__all__ = [
    "TASKS",
    "Classification",
    "Figures",
    "Headline",
    "Needs",
    "Quality",
    "Scored",
    "Task",
    "task",
]

TASKS: dict[str, type[Any]] = {
    "classification": Classification,
    "regression": Regression,
    "choice": Choice,
    "causal_lm": CausalLM,
}


def task(name: str, settings: Mapping[str, Any] | None = None) -> Task:
    """Return the task called `name` with its settings, as a stream file spells them.

    Args:
        name: a key of `TASKS`, or `package.module:Class`.
        settings: its fields by name.

    Raises:
        UnknownName: nobody knows the task.
        ConfigError: a setting is unknown, or its value is none the task knows.
    """
    kind = resolve("task", name, TASKS)
    known = {field.name for field in fields(kind)}
    for key in settings or {}:
        if key not in known:
            raise ConfigError(
                f"The task {name!r} has no setting {key!r}",
                expected=f"one of {', '.join(sorted(known))}" if known else "no settings at all",
                remedy=did_you_mean(key, known),
            )
    made: Task = kind(**(settings or {}))
    return made

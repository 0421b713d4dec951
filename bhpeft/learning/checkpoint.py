"""Keep a long round's training on disk while it runs, and take it up where it was.

One file holds what moves: the vectors, the optimiser's moments, the Fisher averages, the generator
and the place in the epoch. Everything else follows from the learning problem, whose digest is the
file's name, so that no other round can take it up. On a CPU the result is, bit for bit, that of a
round that was never interrupted.

The order of an epoch's rows comes from a seed of its own, drawn when the epoch begins: a later
process finds its place in it without repeating the draws made meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Generator, Tensor

from bhpeft.learning.course import Course
from bhpeft.learning.descent import Descent
from bhpeft.learning.lesson import Lesson

VECTORS = ("mean", "rho", "point", "momentum")
FISHERS = ("gaussian_fisher", "point_fisher")
COUNTS = ("steps", "travelled", "ending", "curve")


@dataclass(frozen=True)
class Place:
    """How far a training has come.

    Attributes:
        epoch: the epoch it is in, counted from 1; 0 before the first.
        order: the seed of that epoch's order of rows.
        moves: the steps taken in that epoch.
        seconds: what they have taken so far.
    """

    epoch: int = 0
    order: int = 0
    moves: int = 0
    seconds: float = 0.0


class Checkpoint:
    """The file of one round's training; see `opened`."""

    def __init__(self, path: Path, every: float):
        self.path = path
        self.every = every
        self._last = time.monotonic()

    @classmethod
    def opened(cls, folder: Path, lesson: Lesson, generator: Generator, every: float) -> Checkpoint:
        """Return the checkpoint of this learning problem; those of others in `folder` go.

        Args:
            folder: of one stream, whose rounds come one at a time.
            lesson: the learning problem.
            generator: as the round begins with it.
            every: seconds between two saves.
        """
        path = folder / f"{identity(lesson, generator)}.safetensors"
        for other in folder.glob("*.safetensors*"):
            if other != path:
                other.unlink(missing_ok=True)
        # All processes of a training restore; what they would save is the same.
        return cls(path, every if lesson.ranks.rank == 0 else math.inf)

    def restore(self, descent: Descent, course: Course) -> Place:
        """Put the training where an interrupted attempt saved it; return the place.

        A file that cannot be read is as good as none: the round begins anew.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                facts = json.loads(file.metadata()["facts"])
        except (FileNotFoundError, SafetensorError):
            return Place()
        _put_back(descent, course, kept, facts)
        return Place(**facts["place"])

    def save_in_time(self, descent: Descent, course: Course, place: Place) -> None:
        """Save, if the last time is long enough ago; a crash leaves the last whole file."""
        if time.monotonic() - self._last < self.every:
            return
        descent.read()
        kept, facts = _kept(descent, course)
        partial = self.path.with_suffix(".safetensors.partial")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_file(kept, partial, {"facts": json.dumps({**facts, "place": asdict(place)})})
        os.replace(partial, self.path)
        self._last = time.monotonic()


def identity(lesson: Lesson, generator: Generator) -> str:
    """Return the digest of a learning problem: same digest, same training step for step."""
    start, prior = lesson.start, lesson.prior
    vectors = (start.posterior.mean, start.posterior.rho, prior.mean, prior.rho)
    named: Iterator[tuple[str, Tensor]] = chain(start.point.items(), start.precision.items())
    plan = replace(lesson.plan, save_every=1.0, max_seconds=0.0)
    rows = [lesson.rows.identity, len(lesson.rows), lesson.ranks.size]
    # A set of words is written in another order by every process.
    variant = asdict(lesson.variant) | {"gaussian": sorted(lesson.variant.gaussian)}
    words = [
        start.spec,
        plan,
        variant,
        lesson.first,
        lesson.forgetting,
        rows,
        lesson.model.device.type,
    ]
    digest = hashlib.sha256(repr([*words, torch.__version__]).encode())
    for vector in (*vectors, generator.get_state()):
        digest.update(vector.detach().cpu().contiguous().numpy().tobytes())
    for name, tensor in named:
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def new_order(generator: Generator) -> int:
    """Draw the seed of an epoch's order of rows."""
    return int(torch.randint(2**62, (), generator=generator))


def _kept(descent: Descent, course: Course) -> tuple[dict[str, Tensor], dict[str, Any]]:
    kept = {name: getattr(descent, name).detach() for name in VECTORS}
    kept |= {name: getattr(descent, name).total for name in FISHERS}
    kept["generator"] = descent.generator.get_state()
    if isinstance(descent.epoch_nll, Tensor):
        kept["epoch_nll"] = descent.epoch_nll
    for number, moments in descent.optimiser.state_dict()["state"].items():
        kept |= {f"optimiser.{number}.{name}": value for name, value in moments.items()}
    facts = {name: getattr(descent, name) for name in COUNTS}
    facts |= {name: getattr(descent, name).weight for name in FISHERS}
    facts["course"] = {name: getattr(course, name) for name in _of_course()}
    return {name: value.cpu().contiguous() for name, value in kept.items()}, facts


def _put_back(
    descent: Descent, course: Course, kept: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    with torch.no_grad():
        for name in VECTORS:
            getattr(descent, name).copy_(kept[name])
        for name in FISHERS:
            fisher = getattr(descent, name)
            fisher.total.copy_(kept[name])
            fisher.weight = facts[name]
    descent.generator.set_state(kept["generator"])
    descent.epoch_nll = kept["epoch_nll"].to(descent.mean.device) if "epoch_nll" in kept else 0.0
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in kept.items():
        if name.startswith("optimiser."):
            _, number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = value
    descent.optimiser.load_state_dict({**descent.optimiser.state_dict(), "state": moments})
    for name in COUNTS:
        setattr(descent, name, facts[name])
    if descent.ending is not None:
        descent.ending = (descent.ending[0], descent.ending[1])
    for name, value in facts["course"].items():
        setattr(course, name, value)
    course.begun = facts["place"]["epoch"] - 1


def _of_course() -> list[str]:
    return [field.name for field in fields(Course) if field.name not in ("lesson", "begun")]

"""A population prior as a value: safetensors for Θ, JSON for τ and for whose it is. No pickle.

A population folder holds

    population.json          τ by block, the coordinates, the answers, which versions it is made of
    population.safetensors   mean/…, Θ of each weight under its name
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bhpeft.errors import StateError
from bhpeft.learning.sharing import common, part_shared
from bhpeft.learning.spec import Spec
from bhpeft.learning.state import AdapterState, layout
from bhpeft.methods import block_of
from bhpeft.posterior import Hyper, Population, flatten, unflatten, updated

FORMAT = 1
POPULATION_FILE, MEANS_FILE = "population.json", "population.safetensors"


@dataclass(frozen=True)
class Member:
    """A promoted posterior that a population is made of.

    Attributes:
        stream, version: whose.
        digest: the SHA-256 of its tensors, as the registry keeps it.
    """

    stream: str
    version: int
    digest: str

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 by which a population's chain knows it."""
        return hashlib.sha256(f"{self.stream} {self.version} {self.digest}".encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.stream} v{self.version}"


@dataclass(frozen=True)
class PopulationState:
    """What the streams of a group have in common, at one moment.

    Attributes:
        known: Θ and τ.
        gauge: the coordinates that all members live in.
        task, labels: what they answer; a head is shared by those that answer the same.
        members: the posteriors it is made of, in the order of their streams.
    """

    known: Population
    gauge: str
    task: str
    labels: tuple[str, ...]
    members: tuple[Member, ...]

    def answers_alike(self, spec: Spec) -> bool:
        """Say whether a state's head means the same as the population's."""
        return (spec.task, spec.labels) == (self.task, self.labels)

    def save(self, folder: Path) -> Path:
        """Write it into `folder` and return that."""
        folder.mkdir(parents=True, exist_ok=True)
        means = unflatten(self.known.mean, self.known.shapes)
        tensors = {f"mean/{name}": mean.contiguous().clone() for name, mean in means.items()}
        save_file(tensors, folder / MEANS_FILE)
        said = {
            "format": FORMAT,
            "gauge": self.gauge,
            "task": self.task,
            "labels": self.labels,
            "tau": dict(self.known.tau),
            "updates": self.known.updates,
            "members": [asdict(member) for member in self.members],
        }
        text = json.dumps(said, indent=2, sort_keys=True)
        (folder / POPULATION_FILE).write_text(text, encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path) -> PopulationState:
        """Read a population.

        Raises:
            StateError: a file is missing, or not what `save` writes.
        """
        try:
            said: dict[str, Any] = json.loads((folder / POPULATION_FILE).read_text("utf-8"))
            if said["format"] != FORMAT:
                raise ValueError(f"format {said['format']}, where {FORMAT} is known")
            tensors = load_file(folder / MEANS_FILE)
            means = {key.removeprefix("mean/"): value for key, value in tensors.items()}
            shapes = layout(means)
            blocks = {name: block_of(name) for name in shapes}
            tau = {name: float(said["tau"][name]) for name in dict.fromkeys(blocks.values())}
            known = Population(flatten(means, shapes), tau, shapes, blocks, int(said["updates"]))
            members = tuple(Member(**member) for member in said["members"])
            return cls(known, said["gauge"], said["task"], tuple(said["labels"]), members)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
            raise StateError(
                "The stored population cannot be read",
                found=str(problem),
                expected=f"{POPULATION_FILE} and {MEANS_FILE}, as PopulationState.save writes them",
                remedy="Roll back to a version whose files are whole.",
            ) from problem


def population_of(
    members: Sequence[tuple[Member, AdapterState]],
    gauge: str,
    before: PopulationState | None = None,
    hyper: Hyper = Hyper(),  # noqa: B008 - a frozen value
) -> PopulationState:
    """Return the population of promoted posteriors: one update of Θ and τ from the one before.

    Args:
        members: the posteriors, all of one gauge.
        gauge: their coordinates.
        before: the population so far; without one, the first member's weights and base prior
            found it.
        hyper: the hyperprior.
    """
    first = members[0][1]
    known = before.known if before else common([first])
    task, labels = (before.task, before.labels) if before else (first.spec.task, first.spec.labels)
    made = PopulationState(known, gauge, task, labels, tuple(member for member, _ in members))
    posteriors = [
        part_shared(known, state.posterior, made.answers_alike(state.spec)) for _, state in members
    ]
    return PopulationState(updated(known, posteriors, hyper), gauge, task, labels, made.members)

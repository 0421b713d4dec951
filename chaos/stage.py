"""The stage on which stories are told: one template, a copy of it for each telling, and a judge."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bhpeft.registry import Registry
from chaos import invariants, stories
from chaos.forks import Ended, in_child, warm_up
from chaos.points import Points
from chaos.world import furnish, opened

# Seconds after which a story hangs: one takes three on a quiet core.
SLOWEST = 300.0
# In memory where there is such a place: a killed process loses nothing there either, and a disk
# that waits for each commit takes ten times as long.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Undisturbed:
    """A story without a fault: its places in order with their counts, its end, its length."""

    places: dict[str, int]
    end: Any
    seconds: float


@dataclass
class Run:
    """One story with its faults, and what was wrong afterwards."""

    seed: int
    story: str
    kills: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON data."""
        return asdict(self)


class Stage:
    """Where stories are told; use as a context.

    Attributes:
        undisturbed: what each story comes to when nothing is broken.
    """

    def __init__(self, names: list[str] | None = None):
        self._names = names or list(stories.STORIES)
        self._desk = Path(tempfile.mkdtemp(prefix="chaos-", dir=SCRATCH))
        self.undisturbed: dict[str, Undisturbed] = {}

    def __enter__(self) -> Stage:
        template = self._desk / "template"
        template.mkdir()
        _expect(in_child(lambda _: _furnish(template), SLOWEST))
        # Told twice: the first time pays for the imports.
        for name in (self._names[0], *self._names):
            self.undisturbed[name] = self._survey(name)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._desk, ignore_errors=True)

    @property
    def places(self) -> list[tuple[str, str, int]]:
        """Return every place as (story, name, how often), in order."""
        return [
            (story, name, times)
            for story, found in self.undisturbed.items()
            for name, times in found.places.items()
        ]

    def fresh(self, name: str) -> Path:
        """Return a new home in which nothing has happened."""
        home = self._desk / name
        shutil.copytree(self._desk / "template", home)
        # The same model for all: a path in a stream's file is the template's.
        return home

    def forget(self, home: Path) -> None:
        """Remove a home."""
        shutil.rmtree(home)
        _notes(home).unlink(missing_ok=True)

    def judge(self, home: Path, story: str, zombie: bool = False) -> list[str]:
        """Return what is not as it must be, or not as in the story told undisturbed."""
        ended = in_child(lambda _: _look(home, zombie), SLOWEST)
        if ended.killed or "error" in ended.said:
            return [f"it could not be looked at: {ended.said}"]
        found, end = list(ended.said["violations"]), self.undisturbed[story].end
        for what in ("fates", "posteriors"):
            if ended.said[what] != end[what]:
                found.append(f"{what} {ended.said[what]}, undisturbed {end[what]}")
        return found

    def _survey(self, story: str) -> Undisturbed:
        home = self.fresh("undisturbed")

        def work(_out: int) -> Any:
            points = Points(without=stories.left_out(story))
            tell(home, story, points)
            return {"places": points.seen, "modules": sorted(sys.modules)}

        ended = in_child(work, SLOWEST)
        told = _expect(ended)
        warm_up(told["modules"])
        end = _expect(in_child(lambda _: _look(home), SLOWEST))
        if end["violations"]:
            raise RuntimeError(f"«{story}» undisturbed: {end['violations']}")
        self.forget(home)
        return Undisturbed(told["places"], end, ended.seconds)


def tell(home: Path, story: str, points: Points, more: tuple[stories.Act, ...] = ()) -> None:
    """Do the acts of a story that have not been done yet, each noted when it is done, and more."""
    tempfile.tempdir = str(home / "desk")
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    world = opened(home)
    notes = _notes(home)
    done = len(notes.read_text()) if notes.exists() else 0
    points.watch(world.registry, f"{home}/")
    for act in (*stories.STORIES[story], *more)[done:]:
        stories.perform(act, world, points)
        if points.woken:
            return  # Another worker has told the rest meanwhile.
        with notes.open("a") as file:
            file.write(".")


def _furnish(home: Path) -> None:
    furnish(home, stories.BATCHES)
    # An empty registry, since making its tables takes two seconds.
    Registry(f"sqlite:///{home / 'mlflow.db'}").streams()


def _notes(home: Path) -> Path:
    return home.with_name(home.name + ".done")


def _look(home: Path, zombie: bool = False) -> dict[str, Any]:
    world = opened(home)
    where = world.stream, world.registry
    return {
        "violations": invariants.violations(*where, zombie),
        "fates": invariants.fates(*where),
        "posteriors": [list(link) for link in invariants.posteriors(*where)],
    }


def _expect(ended: Ended) -> Any:
    if ended.killed or (isinstance(ended.said, dict) and "error" in ended.said):
        raise RuntimeError(f"The world could not be set up: {ended.said}")
    return ended.said

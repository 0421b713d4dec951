"""The stage on which stories are told: one template, a copy of it for each telling, and a judge."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from bhpeft.errors import BhpeftError
from bhpeft.registry import Registry
from chaos import invariants, stories
from chaos.forks import Ended, in_child, warm_up
from chaos.points import Points, asked_by
from chaos.world import World, furnish, opened

# Seconds after which a story hangs: one takes three on a quiet core.
SLOWEST = 300.0
# In memory where there is such a place: a killed process loses nothing there either, and a disk
# that waits for each commit takes ten times as long.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True)
class Undisturbed:
    """A story without a fault: its places with their counts, its end, its seconds, its bytes."""

    places: dict[str, int]
    end: Any
    seconds: float
    grown: int


@dataclass
class Run:
    """One story with its faults, how rounds or watches ended by them, and what was wrong after."""

    seed: int
    story: str
    kills: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the run as JSON data."""
        return asdict(self)


class Stage:
    """Where stories are told; use as a context.

    Attributes:
        undisturbed: what each story comes to when nothing is broken.
        timed: whether a fault asks how long a story takes.
    """

    timed = True

    def __init__(self, names: list[str]):
        self.names = names
        self._desk = Path(tempfile.mkdtemp(prefix="chaos-", dir=SCRATCH))
        self.undisturbed: dict[str, Undisturbed] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._desk, ignore_errors=True)
            self.set_up(stack)
            template = self._desk / "template"
            template.mkdir()
            expect(in_child(lambda _: self.furnish(template), SLOWEST))
            # Told twice where its seconds count: the first time pays for the imports.
            for name in (*self.names[: self.timed], *self.names):
                self.undisturbed[name] = self._survey(name)
            self._down = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._down.close()

    def set_up(self, down: ExitStack) -> None:
        """Start what the stories need; `down` ends it, also where starting fails half-way."""

    @property
    def places(self) -> list[tuple[str, str, int]]:
        """Return every place as (story, name, how often), in order."""
        return [
            (story, name, times)
            for story, found in self.undisturbed.items()
            for name, times in found.places.items()
        ]

    def furnish(self, home: Path) -> None:
        """Fill the template; called in a child."""
        furnish(home, stories.BATCHES)
        # An empty registry, since making its tables takes two seconds.
        Registry(f"sqlite:///{home / 'mlflow.db'}").streams()

    def place(self, name: str) -> Path:
        """Return where a home of that name is, or is to be."""
        return self._desk / name

    def fresh(self, name: str) -> Path:
        """Return a new home in which nothing has happened."""
        home = self.place(name)
        shutil.copytree(self._desk / "template", home, dirs_exist_ok=True)
        # The same model for all: a path in a stream's file is the template's.
        return home

    def forget(self, home: Path) -> None:
        """Remove a home."""
        shutil.rmtree(home)
        _notes(home).unlink(missing_ok=True)

    def world(self, home: Path) -> World:
        """Return the world of a home."""
        return opened(home)

    def tell(self, home: Path, story: str, points: Points) -> Any:
        """Tell a story from its beginning, undisturbed; called in a child."""
        tell(home, story, points)

    def look(self, world: World, timed: bool = True) -> dict[str, Any]:
        """Return what has become of a world, as JSON data."""
        where = world.stream, world.registry
        return {
            "violations": invariants.violations(*where, timed),
            "fates": invariants.fates(*where),
            "posteriors": [list(link) for link in invariants.posteriors(*where)],
        }

    def judge(self, home: Path, story: str, timed: bool = True) -> list[str]:
        """Return what is not as it must be, or not as in the story told undisturbed."""
        ended = in_child(lambda _: self.look(self.world(home), timed), SLOWEST)
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
            self.tell(home, story, points)
            return {"places": points.seen, "modules": sorted(sys.modules)}

        ended = in_child(work, SLOWEST)
        told = expect(ended)
        warm_up(told["modules"])
        _know_packages()
        end = expect(in_child(lambda _: self.look(self.world(home)), SLOWEST))
        if end["violations"]:
            raise RuntimeError(f"«{story}» undisturbed: {end['violations']}")
        grown = size_of(home) - size_of(self._desk / "template")
        self.forget(home)
        return Undisturbed(told["places"], end, ended.seconds, grown)


def tell(home: Path, story: str, points: Points, more: tuple[stories.Act, ...] = ()) -> None:
    """Do the acts of a story that have not been done yet, each noted when it is done, and more."""
    world = entered(home)
    notes = _notes(home)
    done = len(notes.read_text()) if notes.exists() else 0
    points.watch(world.registry, f"{home}/")
    for act in (*stories.STORIES[story], *more)[done:]:
        stories.perform(act, world, points)
        if points.woken:
            return  # Another worker has told the rest meanwhile.
        with notes.open("a") as file:
            file.write(".")


def entered(home: Path, name: str = "chaos") -> World:
    """Return the world of a home, with its temporary files inside, so that they are seen too."""
    tempfile.tempdir = str(home / "desk")
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    return opened(home, name)


def attempt(work: Callable[[], object]) -> dict[str, str] | None:
    """Do something as far as it goes; return which error of ours, or of the disk's, ended it.

    Any other error is none that whoever is on call should see, and goes on to the parent.
    """
    try:
        work()
    except (BhpeftError, OSError) as problem:
        inwards = list(traceback.walk_tb(problem.__traceback__))
        return {"stopped": type(problem).__name__, "at": asked_by(inwards[::-1])}
    return None


def go_on(home: Path, run: Run, more: tuple[stories.Act, ...] = ()) -> None:
    """Tell the rest of a run's story, undisturbed: nobody helps, it only has to be begun again."""
    points = Points(without=stories.left_out(run.story))
    ended = in_child(lambda _: tell(home, run.story, points, more), SLOWEST)
    if ended.said is not None:
        run.violations.append(f"going on failed: {ended.said}")


def size_of(folder: Path) -> int:
    """Return how many bytes a folder's files take on the disk."""
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))


def _know_packages() -> None:
    """Let MLflow learn once which packages there are: each child would take a second for it."""
    from mlflow.utils import requirements_utils

    requirements_utils._init_modules_to_packages_map()


def _notes(home: Path) -> Path:
    return home.with_name(home.name + ".done")


def expect(ended: Ended) -> Any:
    """Return what a child said that must not fail.

    Raises:
        RuntimeError: it failed.
    """
    if ended.killed or (isinstance(ended.said, dict) and "error" in ended.said):
        raise RuntimeError(f"The world could not be set up: {ended.said}")
    return ended.said

"""The faults there are, by name: each runs on a stage, once for each seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from chaos.kills import kills
from chaos.stage import Run, Stage
from chaos.zombies import zombies

Fault = Callable[[Stage, Iterable[int]], Iterator[Run]]

FAULTS: dict[str, Fault] = {"kills": kills, "zombies": zombies}

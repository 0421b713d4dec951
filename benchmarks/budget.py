"""Say how long a benchmark may take, and that one cannot be run here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")


class Skipped(Exception):
    """Something the benchmark needs is not on this machine; the message says what."""


@dataclass(frozen=True)
class Budget:
    """What a benchmark, or a part of one, may take.

    Attributes:
        seconds: repeats go on until they are spent.
        smoke: run every line once at the smallest sizes; the figures mean nothing.
        least, most: repeats of a comparison, however long or short they take.
    """

    seconds: float = 60.0
    smoke: bool = False
    least: int = 5
    most: int = 61

    def share(self, part: float) -> Budget:
        """Return the budget of a part of the benchmark."""
        return replace(self, seconds=part * self.seconds)

    def of(self, full: T, smoke: T) -> T:
        """Return the size to run at."""
        return smoke if self.smoke else full


def smoke() -> Budget:
    """Return the budget of a test: one repeat of everything."""
    return Budget(seconds=0.0, smoke=True, least=1, most=1)

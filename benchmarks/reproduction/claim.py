"""Say what a claim is: which cells it needs, and what follows from their results.

A verdict is computed from measured values, never written down. Each criterion has a target and a
value with its interval: it is met when the value is on the right side of the target, and "surely"
so when the whole interval is. A claim is reproduced where everything that decides is surely met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.reproduction.cells import Cell, Result
from benchmarks.reproduction.statistics import Estimate

Find = Callable[[Cell], Result | None]


@dataclass(frozen=True)
class Criterion:
    """One number that decides.

    Attributes:
        what: is measured.
        value: it, with its interval.
        target: what it must reach.
        at_least: whether more is better; else it is the most it may be.
        decides: whether the verdict hangs on it.
        slack: how far the worse end of the interval may fall short of the target and still be sure:
            that nothing is lost is shown by no loss beyond this.
    """

    what: str
    value: Estimate
    target: float
    at_least: bool = True
    decides: bool = True
    slack: float = 0.0

    @property
    def met(self) -> bool:
        """Say whether the value reaches the target."""
        return self._reaches(self.value.value)

    @property
    def surely(self) -> bool:
        """Say whether the worse end of the interval does too, but for the slack."""
        low, high = self.value.low + self.slack, self.value.high - self.slack
        return self.met and self._reaches(low if self.at_least else high)

    @property
    def surely_missed(self) -> bool:
        """Say whether even the better end of the interval misses the target."""
        return not self._reaches(self.value.high if self.at_least else self.value.low)

    @property
    def outcome(self) -> str:
        """Return what became of it, in words."""
        word = "met" if self.met else "missed"
        if not self.value.known:
            return f"{word}, one seed"
        sure = self.surely if self.met else self.surely_missed
        return f"{word}, interval and all" if sure else f"{word} in the mean"

    def _reaches(self, number: float) -> bool:
        return number >= self.target if self.at_least else number <= self.target


@dataclass(frozen=True)
class Table:
    """Figures in rows, for a reader.

    Attributes:
        title: above it.
        columns: names.
        rows: cells in words or numbers, as many as columns.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Plot:
    """What a plot shows; how it is drawn is its kind's business (`plots.KINDS`).

    Attributes:
        kind: a key of `plots.KINDS`.
        title: above it.
        data: JSON.
    """

    kind: str
    title: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Judged:
    """What the results say of a claim.

    Attributes:
        criteria: what the verdict hangs on; without any, nothing was run yet.
        seeds: of the results that count.
        tables, plots: what a reader wants to see.
        said: what follows, a sentence each.
        concluded: what became of it, where that is no question of targets.
    """

    criteria: Sequence[Criterion] = ()
    seeds: Sequence[int] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    said: Sequence[str] = field(default_factory=tuple)
    concluded: str = ""

    @property
    def verdict(self) -> str:
        """Return what became of the claim, in words the page is searched for."""
        if self.concluded:
            return self.concluded + self._reserve
        deciding = [one for one in self.criteria if one.decides]
        if not deciding:
            return "not yet run"
        met = sum(one.met for one in deciding)
        if met < len(deciding):
            return ("partly reproduced" if met else "not reproduced") + self._reserve
        sure = len(self.seeds) == 1 or all(one.surely for one in deciding)
        return ("reproduced" if sure else "reproduced in the mean") + self._reserve

    @property
    def _reserve(self) -> str:
        """Return what is to be said where there is no interval over seeds."""
        return ", on one seed" if len(self.seeds) == 1 else ""


@dataclass(frozen=True)
class Claim:
    """A published claim in relative form, or an ablation: what a default is chosen from.

    Attributes:
        name: "R1".
        title: a few words.
        claim: what is claimed, and by whom; of an ablation what differs.
        target: what would count as reproduced; of an ablation the library's default.
        about: how it was tried here.
        cells: what has to be run, for a full or a quick run.
        judge: what their results say.
        tried: what else was tried, where a target is out of reach.
        turn: how many seeds of the most telling claims are run before this one's second.
        kind: "claim", or "ablation".
    """

    name: str
    title: str
    claim: str
    target: str
    about: str
    cells: Callable[[bool], list[Cell]]
    judge: Callable[[bool, Find], Judged]
    tried: str = ""
    turn: int = 1
    kind: str = "claim"

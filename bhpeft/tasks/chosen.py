"""Judge draws over the options of questions: categorical, among as many options as each row has.

Beside what any classifier is judged by, whoever looks at a round of questions asks three things:

    is it better than guessing?     chance = mean over rows of 1 / options
    is it decided?                  margin = p(best option) − p(second), averaged over rows
    does it read the options, or    accuracy by the place of the right answer, and how often a place
    prefer a place?                 is chosen beside how often the right answer stands there

A model that likes the first option finds what stands there and misses the rest, at an accuracy
that may well be above chance.

Source: such preferences in multiple choice, Zheng et al. 2024 (arXiv 2309.03882).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from bhpeft.tasks.categorical import FIGURES as CATEGORICAL
from bhpeft.tasks.categorical import Categorical, ClassQuality, marginal
from bhpeft.tasks.metrics import correct_rows
from bhpeft.tasks.scored import Figures

_NAN = float("nan")

FIGURES: Figures = replace(
    CATEGORICAL,
    plain=("accuracy", "chance", "margin", *CATEGORICAL.plain[1:]),
    answer="choice",
    shown=("options",),
)

# Where the spread of the margin is read off: every fortieth of the rows, both ends included.
SHARES = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True)
class CountBin:
    """Rows with as many options.

    Attributes:
        options: how many.
        rows: with so many.
        accuracy: on them; a guess has 1 / options.
    """

    options: int
    rows: int
    accuracy: float


@dataclass(frozen=True)
class PlaceBin:
    """One place among the options, the first being 0.

    Attributes:
        place: which.
        rows: whose right answer stands there.
        accuracy: on those; NaN where there are none.
        chosen: rows whose likeliest option stands there, whatever is right.
    """

    place: int
    rows: int
    accuracy: float
    chosen: int


@dataclass(frozen=True)
class ChoiceQuality(ClassQuality):
    """One model on one set of questions: a classifier's figures, and what only options have.

    Attributes:
        chance: accuracy of a guess among each row's own options.
        margin: p(best) − p(second), mean over rows.
        margins: (share of rows, margin that they stay below).
        by_options: rows by how many options they have.
        by_place: rows by where the right answer stands.
    """

    figures: ClassVar[Figures] = FIGURES

    chance: float = _NAN
    margin: float = _NAN
    margins: tuple[tuple[float, float], ...] = ()
    by_options: tuple[CountBin, ...] = ()
    by_place: tuple[PlaceBin, ...] = ()


@dataclass(frozen=True, eq=False)
class Chosen(Categorical):
    """One model's probabilities of the options of each row.

    An option a row does not have has no probability under any draw, and one it has never has none
    (`Choice.restricted`): that is how the rows know their options.
    """

    figures: ClassVar[Figures] = FIGURES

    @cached_property
    def options(self) -> np.ndarray:
        """Return how many options each row has, (N,)."""
        there: np.ndarray = np.any(self.probabilities > 0, axis=0)
        return np.asarray(there.shape[1] - there[:, ::-1].argmax(1))

    @cached_property
    def margin(self) -> np.ndarray:
        """Return p(best) − p(second) of each row, (N,)."""
        ordered = np.sort(self.mean, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])

    def take(self, rows: np.ndarray) -> Chosen:
        """Return the same model on a subset of the rows, given as a mask or as positions."""
        return Chosen(self.probabilities[:, rows], self.labels[rows])

    def baseline(self, known: np.ndarray | None) -> Chosen:
        """Return the predictor that knows how often each place is right, among a row's options."""
        said = marginal(self.labels, self.probabilities.shape[2], known).probabilities
        there = np.arange(said.shape[2]) < self.options[:, None]
        kept = np.where(there, said, 0.0)
        return Chosen(kept / kept.sum(-1, keepdims=True), self.labels)

    def seen(self, labels: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what a drift table shows: the probabilities, the options and the margin."""
        own = {"options": self.options.astype(np.float64), "margin": self.margin}
        return {**super().seen(labels), "predictions": own}

    def quality(self, rng: np.random.Generator) -> ChoiceQuality:
        """Return a classifier's figures, chance, the margin, and accuracy by options and place."""
        if not self.rows or not self.finite:
            return ChoiceQuality()
        told = super().quality(rng)
        return ChoiceQuality(
            **vars(told),
            chance=float((1.0 / self.options).mean()),
            margin=float(self.margin.mean()),
            margins=tuple(
                (float(share), float(value))
                for share, value in zip(SHARES, np.quantile(self.margin, SHARES), strict=True)
            ),
            by_options=self._by_options(),
            by_place=self._by_place(),
        )

    def _by_options(self) -> tuple[CountBin, ...]:
        right = correct_rows(self.mean, self.labels)
        found = [(int(count), self.options == count) for count in np.unique(self.options)]
        return tuple(
            CountBin(count, int(mine.sum()), float(right[mine].mean())) for count, mine in found
        )

    def _by_place(self) -> tuple[PlaceBin, ...]:
        best, right = self.mean.argmax(1), correct_rows(self.mean, self.labels)
        found = []
        for place in range(int(self.options.max())):
            mine = self.labels == place
            accuracy = float(right[mine].mean()) if mine.any() else _NAN
            found.append(PlaceBin(place, int(mine.sum()), accuracy, int((best == place).sum())))
        return tuple(found)

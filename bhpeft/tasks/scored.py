"""Say what judging needs to know of a model on rows: figures, intervals, uncertainty, a yardstick.

Gates, reports and figures work on these names alone, so that they serve every task. A `Scored` is
one model's draws on rows whose answers are known; what the draws are is its task's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

# The share of rows refused where a figure says what is left: enough to matter, few enough to bear.
REJECTED = 0.2


@dataclass(frozen=True)
class Headline:
    """The figure people ask for first, which the gates guard beside the NLL.

    Attributes:
        name: of the figure, and of the gate that guards it.
        told: as people say it.
        higher: whether more of it is better.
        relative: whether a gate's margin is a share of the reference's figure, for figures in the
            data's own units; else it is a margin in the figure itself.
    """

    name: str
    told: str
    higher: bool = True
    relative: bool = False

    def loss(self, difference: float) -> float:
        """Return by how much a difference candidate − reference is worse; negative if better."""
        return -difference if self.higher else difference

    def unit(self, reference: float) -> float:
        """Return what a margin is a multiple of."""
        return reference if self.relative else 1.0


@dataclass(frozen=True)
class ReliabilityBin:
    """One bar of a reliability diagram; bars without rows are left out.

    Attributes:
        low, high: the bar's bounds.
        rows: how many rows it stands on.
        confidence: what the model said, averaged over them.
        accuracy: how often it was so.
    """

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Figures:
    """Which of a quality's figures play which part in reports and gates.

    Attributes:
        headline: the figure people ask for first.
        plain: the figures written down beside each set of rows.
        calibration: the figure that says how far confidences are off, as people say it; its range
            under perfect calibration is in the figures `<name>_null_low` and `<name>_null_high`.
        rejected: the headline when the 20 % most uncertain rows are refused.
        said, happened: what the axes of the reliability diagram show.
        probable: whether both axes are shares between 0 and 1; else they are nats, and what an
            error may be at most is not known beforehand.
        answer: what an answer is to a drift report: "categorical", "choice", "numerical", or ""
            where a row is its own.
        watched: the figures of the champion that a drift report shows, each with its title.
        shown: figures of a round that only this task has, each a key of
            `judgement.figures_task.TASK_FIGURES` or `package.module:attribute`.
    """

    headline: Headline
    plain: tuple[str, ...]
    calibration: tuple[str, str] | None = None
    rejected: str = ""
    said: str = ""
    happened: str = ""
    probable: bool = True
    answer: str = "categorical"
    watched: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[str, ...] = ()


class Quality(Protocol):
    """One model on one set of rows: a frozen dataclass of figures, NaN where there are none.

    Attributes:
        figures: which figure plays which part.
        nll: mean negative log-likelihood.
        reliability: the bars of the reliability diagram.
        rejection: (share refused, headline of the rest).
    """

    @property
    def figures(self) -> Figures: ...  # noqa: D102
    @property
    def nll(self) -> float: ...  # noqa: D102
    @property
    def reliability(self) -> tuple[ReliabilityBin, ...]: ...  # noqa: D102
    @property
    def rejection(self) -> tuple[tuple[float, float], ...]: ...  # noqa: D102


class Statistics(Protocol):
    """Metrics of one model on resampled rows, for the paired bootstrap.

    Attributes:
        names: of the K metrics; "nll" and the headline are among them.
    """

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the metrics (R, K) of R resamples that hold each row `counts` (R, N) times."""
        ...


class Scored(Protocol):
    """One model's draws on rows whose answers are known."""

    @property
    def rows(self) -> int:
        """Return N."""
        ...

    @property
    def finite(self) -> bool:
        """Say whether the model said nothing but numbers."""
        ...

    @property
    def figures(self) -> Figures:
        """Return which figure plays which part."""
        ...

    @property
    def uncertainty(self) -> np.ndarray:
        """Return the total uncertainty (N,), by which rows are refused."""
        ...

    @property
    def signals(self) -> Mapping[str, np.ndarray]:
        """Return what is averaged over rows to tell known from new: "nll" first, each (N,)."""
        ...

    @property
    def weights(self) -> np.ndarray:
        """Return how much each row counts in an average, (N,)."""
        ...

    def take(self, rows: np.ndarray) -> Any:
        """Return the same model on a subset of the rows, given as a mask or as positions."""
        ...

    def same_rows(self, other: Any) -> bool:
        """Say whether the other was scored on rows with the same answers."""
        ...

    def baseline(self, known: np.ndarray | None) -> Any:
        """Return a model that never reads a row, the yardstick of a first round.

        Args:
            known: what the task tallied on the training rows; without it the answers of these
                rows themselves are used, which makes it a little stronger than it could be.
        """
        ...

    def seen(self, labels: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what a drift table shows of the predictions, as its fields."""
        ...

    def quality(self, rng: np.random.Generator) -> Quality:
        """Return the figures; all NaN where there are no rows or no numbers."""
        ...

    def statistics(self) -> Statistics:
        """Return the metrics for the bootstrap."""
        ...

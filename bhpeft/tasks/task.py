"""Say what a task is: how a row becomes tokens and an answer, and what the draws amount to.

The rest of the house asks a task and never which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from bhpeft.tasks.scored import Figures

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from bhpeft.models.heads import HeadFactory


@dataclass(frozen=True)
class Needs:
    """What a task needs of a contract.

    Attributes:
        roles: the roles that must be played by one column each.
        answer: which of them is to be predicted; empty where a row is its own answer.
        types: the logical types its column may have.
        listed: whether the contract must list its values.
        options: the role of the columns an answer chooses from, one for each listed value.
        option_list: the role of one column instead, with a list of options in each row.
    """

    roles: tuple[str, ...]
    answer: str
    types: tuple[str, ...]
    listed: bool
    options: str = ""
    option_list: str = ""


class Task(Protocol):
    """Everything that differs from one task to the next; a frozen dataclass of its settings."""

    @property
    def name(self) -> str:
        """Return the name, as in `TASKS`."""
        ...

    @property
    def needs(self) -> Needs:
        """Return what the contract must say."""
        ...

    @property
    def figures(self) -> Figures:
        """Return which figure plays which part in reports and gates."""
        ...

    @property
    def asked(self) -> Mapping[str, str]:
        """Return the columns `predict` is given, each with its MLflow type or "strings"."""
        ...

    @property
    def against_base(self) -> bool:
        """Say whether a first round has to beat the frozen base itself, which has an answer too."""
        ...

    @property
    def answers(self) -> Mapping[str, str]:
        """Return the columns that `predict` adds to a row, each with its MLflow type."""
        ...

    def knowing(self, tally: Sequence[float]) -> Task:
        """Return the task as it is once the first round's training rows are tallied."""
        ...

    def head(self, labels: Sequence[str]) -> HeadFactory:
        """Return what makes the head that turns hidden states into `outputs` numbers a row."""
        ...

    def inputs(
        self, texts: Sequence[str], options: Sequence[Sequence[Any]], labels: Sequence[str]
    ) -> list[str]:
        """Return what a model reads of rows: the text, with its options where it has some."""
        ...

    def outputs(self, labels: Sequence[str]) -> int:
        """Return how many numbers the head gives for a row."""
        ...

    def targets(self, answers: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
        """Return the answers of rows as numbers, (N,)."""
        ...

    def tally(self, targets: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
        """Return what a model that never reads a row may know, from the training rows' targets."""
        ...

    def loss(self, logits: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over rows of −log p(answer | row) under one draw, a scalar in nats.

        Args:
            logits: (B, outputs) from the head.
            minibatch: with the rows' targets as `labels` (B,).
        """
        ...

    def draws(self, logits: Tensor) -> np.ndarray:
        """Return what each draw says of each row, (S, B, K) float64.

        Args:
            logits: (S, B, outputs).
        """
        ...

    def restricted(self, draws: np.ndarray, options: np.ndarray) -> np.ndarray:
        """Return draws (S, N, K) among the first `options` (N,) labels of each row; 0 is all."""
        ...

    def scored(self, draws: np.ndarray, targets: np.ndarray) -> Any:
        """Return draws (S, N, K) on rows with known targets (N,), ready to be judged."""
        ...

    def predict(
        self, draws: np.ndarray, labels: Sequence[str], abstain_above: float
    ) -> pd.DataFrame:
        """Return a row of answers for each row of draws (S, N, K)."""
        ...

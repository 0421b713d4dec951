"""Read rows as a task sees them: what is asked, what is answered, and what a version says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from bhpeft.data.contract import Contract
from bhpeft.learning.predict import Predictor
from bhpeft.tasks import Task


def inputs_of(predicted: Task, rows: pd.DataFrame, contract: Contract) -> list[Any]:
    """Return what a model is given of each row: its text."""
    return list(rows[contract.text])


def targets_of(predicted: Task, rows: pd.DataFrame, contract: Contract) -> np.ndarray:
    """Return each row's answer as the task's number, (N,): a label's place in the list, say."""
    return predicted.targets(rows[contract.label].tolist(), contract.labels)


def said_of(
    predictor: Predictor,
    rows: pd.DataFrame,
    contract: Contract,
    options: np.ndarray,
    watch: Callable[[int], None],
) -> np.ndarray:
    """Return what each draw of a version says of rows, among the labels each of them knows.

    Args:
        predictor: the version.
        rows: what is asked.
        contract: what their columns mean.
        options: (N,), how many labels each row knows; 0 is all.
        watch: told how many rows are done.

    Returns:
        (S, N, K) float64.
    """
    draws = predictor.probabilities(inputs_of(predictor.task, rows, contract), watch=watch)
    return predictor.task.restricted(draws, options)

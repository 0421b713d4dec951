"""Read rows as a task sees them: what is asked, what is answered, and what a version says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from bhpeft.data.contract import Contract
from bhpeft.data.options import options_in, options_there
from bhpeft.learning.predict import Predictor
from bhpeft.tasks import Task


def inputs_of(predicted: Task, rows: pd.DataFrame, contract: Contract) -> list[Any]:
    """Return what a model is given of each row: its text, with its options if it has some."""
    options = options_in(rows, contract)
    return predicted.inputs(rows[contract.text].tolist(), options, contract.labels)


def options_of(rows: pd.DataFrame, contract: Contract, known: np.ndarray) -> np.ndarray:
    """Return from how many labels each row may choose, (N,).

    Args:
        rows: what is asked.
        contract: what their columns mean.
        known: (N,), how many labels each row's batch knew; 0 is all.
    """
    if not contract.options:
        return known
    return options_there(rows, contract).sum(axis=1).astype(np.int64)


def targets_of(predicted: Task, rows: pd.DataFrame, contract: Contract) -> np.ndarray:
    """Return each row's answer as the task's number, (N,): a label's place in the list, say."""
    answers = rows[contract.label].tolist() if contract.label else [None] * len(rows)
    return predicted.targets(answers, contract.labels)


def said_of(
    predictor: Predictor,
    rows: pd.DataFrame,
    contract: Contract,
    known: np.ndarray,
    watch: Callable[[int], None],
) -> np.ndarray:
    """Return what each draw of a version says of rows, among the labels each of them knows.

    Args:
        predictor: the version.
        rows: what is asked.
        contract: what their columns mean.
        known: (N,), how many labels each row's batch knew; 0 is all.
        watch: told how many rows are done.

    Returns:
        (S, N, K) float64.
    """
    draws = predictor.probabilities(inputs_of(predictor.task, rows, contract), watch=watch)
    return predictor.task.restricted(draws, options_of(rows, contract, known))

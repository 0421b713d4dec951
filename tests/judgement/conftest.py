"""Simulated predictions whose truth is known: a reader of a noisy ±1 signal, calibrated or not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from bhpeft.judgement.scored import Comparison
from bhpeft.tasks.categorical import Categorical

Reader = Callable[..., Categorical]


def read(
    signal: np.ndarray, labels: np.ndarray, *, noise: float = 1.0, trust: float = 1.0
) -> Categorical:
    """Score rows from a signal ±1 + noise·N(0, 1): calibrated at trust 1, overconfident above."""
    logit = trust * 2 * signal / noise**2
    positive = 1 / (1 + np.exp(-(logit + np.array([[-0.1], [0.1]]))))
    return Categorical(np.stack([1 - positive, positive], -1), labels)


def task(rng: np.random.Generator, rows: int, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a signal (N,) and the labels (N,) it carries."""
    labels = rng.integers(2, size=rows)
    return 2 * labels - 1 + noise * rng.normal(size=rows), labels


def compare(name: str, candidate: Categorical, champion: Categorical | None) -> Comparison:
    """Return the two on rows that carry a label and a slice column."""
    rows = pd.DataFrame(
        {
            "text": ["some words"] * candidate.rows,
            "label": candidate.labels,
            "kind": np.where(np.arange(candidate.rows) % 3 == 0, "rare", "common"),
        }
    )
    return Comparison(name, rows, candidate, champion)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)

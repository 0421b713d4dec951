"""Learn one batch under one recipe, and keep what each way of predicting says of unseen rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reproduction.corpora import labels_of, out_of_scope, rows_of
from benchmarks.reproduction.learner import Learner, Recipe, Rows
from bhpeft.learning.finishes import best_temperature
from bhpeft.learning.members import member
from bhpeft.learning.state import AdapterState
from bhpeft.tasks.categorical import Categorical

DIGITS = 5


def run(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Learn `train` rows of `set` and read what `readings` say of `test` others.

    Args:
        params: set, seed, train, test, selection, recipe; readings, each a number of draws,
            "member" for an ensemble's first, "temperature" for that with a fitted temperature;
            out_of_scope, how many rows of none of the set's labels are read too.
        folder: for tables and features.

    Returns:
        CPU seconds of the training, and for each reading and side ("test", "outside") what `said`
        keeps of its rows.
    """
    seed = params["seed"]
    sizes = (params["train"], params["test"], params.get("selection", 0))
    train, selection, test = rows_of(params["set"], seed, *sizes)
    learner = Learner(Recipe(**params["recipe"]), labels_of(params["set"]), seed, folder)
    start = learner.first(train.texts)
    with learner.reading(train):
        began = time.process_time()  # what the frozen layers say of the rows is there
    state = learner.round(start, train, selection)
    seconds = time.process_time() - began
    sides = {"test": test}
    if params.get("out_of_scope"):
        sides["outside"] = out_of_scope(params["set"], seed, params["out_of_scope"])
    found: dict[str, Any] = {}
    for reading in params["readings"]:
        chosen, draws = _reading(reading, learner, state, selection)
        found[reading] = {
            side: said(learner.says(chosen, rows, draws), rows.labels)
            for side, rows in sides.items()
        }
    return {
        "readings": found, "std": _median_std(state), "weights": _weights(state),
        "seconds": round(seconds, 2),
    }  # fmt: skip


def said(probabilities: np.ndarray, labels: Any) -> dict[str, list[float]]:
    """Return what judging needs of rows, each (N,): never the texts.

    Returns:
        nll, right, confidence (of the top label), entropy, mutual_information.
    """
    scored = Categorical(probabilities, np.asarray(labels, dtype=np.int64))
    kept = {
        "nll": scored.signals["nll"],
        "right": scored.signals["accuracy"],
        "confidence": scored.mean.max(1),
        "entropy": scored.entropy,
        "mutual_information": scored.mutual_information,
    }
    return {name: np.round(values, DIGITS).tolist() for name, values in kept.items()}


def _reading(
    reading: str, learner: Learner, state: AdapterState, selection: Rows
) -> tuple[AdapterState, int]:
    if reading.isdigit():
        return state, int(reading)
    one = member(state, 0)
    if reading == "member":
        return one, 0
    log_probs = torch.from_numpy(learner.says(one, selection, 0)).clamp_min(1e-300).log()
    found = best_temperature(log_probs, torch.tensor(selection.labels))
    return one.with_spec(temperature=found), 0


def _median_std(state: AdapterState) -> float | None:
    return float(state.posterior.std.median()) if state.posterior.size else None


def _weights(state: AdapterState) -> int:
    return state.posterior.size + sum(value.numel() for value in state.point.values())

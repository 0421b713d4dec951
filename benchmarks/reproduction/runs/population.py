"""Learn several tasks under a hierarchical prior: each alone, all as one, and in between."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reproduction.corpora import labels_of, rows_of
from benchmarks.reproduction.learner import Learner, Recipe
from bhpeft.learning.joint import Sharing, over_grid

# How the JSON names what is no number.
NAMED = {"learned": None, "pooled": inf, "alone": 0.0}


def run(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Learn the tasks at every τ and judge each on its own test rows.

    Args:
        params: seed, sets, train and test rows of each, recipe, draws; taus, each a number, or
            "alone", "pooled", "learned".
        folder: for tables and features.

    Returns:
        by τ: NLL and accuracy of each task (a text has none); of the learned one τ by block too.
    """
    seed, sets = params["seed"], params["sets"]
    recipe = Recipe(**params["recipe"])
    labels = labels_of(sets[0]) if recipe.task == "classification" else ()
    learner = Learner(recipe, labels, seed, folder)
    rows = {name: rows_of(name, seed, params["train"], params["test"]) for name in sets}
    found: dict[str, Any] = {}
    with ExitStack() as open_:
        tasks = {}
        for name, (train, _, _) in rows.items():
            start = learner.first(train.texts)
            table = open_.enter_context(learner.reading(train))
            tasks[name] = learner.lesson(start, start.prior, table)
        taus = {NAMED.get(tau, tau): str(tau) for tau in params["taus"]}
        for tau, joint in over_grid(tasks, taus, seed, Sharing()).items():
            found[taus[tau]] = {
                "tasks": {
                    name: _judged(learner, joint.states[name], test, params["draws"])
                    for name, (_, _, test) in rows.items()
                },
                "tau": dict(joint.population.tau) if tau is None else {},
            }
    return {"taus": found}


def _judged(learner: Learner, state: Any, rows: Any, draws: int) -> dict[str, float]:
    said = learner.says(state, rows, draws)
    scored = state.spec.predicted.scored(said, np.array(rows.labels))
    quality = scored.quality(np.random.default_rng(0))
    found = {"nll": quality.nll}
    return found | ({"accuracy": quality.accuracy} if hasattr(quality, "accuracy") else {})

"""Learn a sequence of batches under one strategy, and judge the state on every domain after each.

A strategy says what a round starts from, what it is held by and which rows it sees:

    ours           posterior → prior, point weights anchored; `forgetting` and `frozen` change it
    adaptive       ours, with ρ chosen between two where the prequential signal says drift
    scratch        each batch from the first state: what is new and nothing else
    warm           the point estimate goes on, held by nothing
    l2             the same, held to its last values by a Gaussian as wide as the first prior
    ewc            the same, held by the running Fisher information: online EWC
    replay         the point estimate goes on over the batch and a share of all earlier rows
    full_replay    each round from the first state on all rows so far
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.reproduction.corpora import labels_of, rows_of
from benchmarks.reproduction.learner import Learner, Recipe, Rows
from bhpeft.learning.state import AdapterState
from bhpeft.rounds.forgetting import FEWEST_ROWS, Signal
from bhpeft.tasks.categorical import Categorical

# The most rows of what is known that a batch is compared with.
COMPARED = 200


@dataclass(frozen=True)
class Batch:
    """One batch of a sequence.

    Attributes:
        domain: which rows, and which test rows they are judged by.
        rows: to learn.
        selection: to choose by; no test row.
    """

    domain: str
    rows: Rows
    selection: Rows


@dataclass(frozen=True)
class Chain:
    """Where a sequence of rounds is.

    Attributes:
        state: what was learned last; None before the first round.
        past: all batches before this one.
        rho: the last round's ρ.
    """

    state: AdapterState | None = None
    past: tuple[Batch, ...] = ()
    rho: float = 1.0


Strategy = Callable[[Learner, Chain, Batch, Mapping[str, Any]], tuple[AdapterState, float]]


def run(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Learn batch after batch and judge the state on every domain's test rows after each.

    Args:
        params: seed, strategy, settings of the strategy, recipe; selected, the share of a batch
            that is kept to choose by, whatever the strategy, and 0 if left out; batches, each
            {set, rows} and "flip" or "share" (of the first label) where the batch is to be
            another; tests, each {name, set, rows} and "flip" or "share" too; draws of the
            predictions.
        folder: for tables and features.

    Returns:
        rounds, each with its seconds, rows trained on, ρ and by test set accuracy, nll and ece.
    """
    seed = params["seed"]
    selected = params.get("selected", 0.0)
    batches = _sequence(params["batches"], seed, selected)
    tests = _tests(params["tests"], seed)
    labels = labels_of(params["batches"][0]["set"])
    learner = Learner(Recipe(**params["recipe"]), labels, seed, folder)
    learn = STRATEGIES[params["strategy"]]
    chain, rounds = Chain(), []
    for batch in batches:
        began = time.process_time()
        state, rho = learn(learner, chain, batch, params.get("settings", {}))
        seconds = time.process_time() - began
        chain = Chain(state, (*chain.past, batch), rho)
        rounds.append(
            {
                "domain": batch.domain, "rows": len(batch.rows), "rho": rho,
                "seconds": round(seconds, 2),
                "tests": {n: judged(learner, state, rows, params["draws"]) for n, rows in tests},
            }
        )  # fmt: skip
    return {"rounds": rounds}


def judged(learner: Learner, state: AdapterState, rows: Rows, draws: int) -> dict[str, float]:
    """Return accuracy, NLL and ECE of a state on rows."""
    said = learner.says(state, rows, draws)
    quality = Categorical(said, np.array(rows.labels)).quality(np.random.default_rng(0))
    return {"accuracy": quality.accuracy, "nll": quality.nll, "ece": quality.ece}


def ours(
    learner: Learner, chain: Chain, batch: Batch, settings: Mapping[str, Any]
) -> tuple[AdapterState, float]:
    """Go on from the posterior, widened by the setting `rho`; `plan` changes later rounds'."""
    rho = settings.get("rho", 1.0)
    if chain.state is None:
        return learner.round(learner.first(batch.rows.texts), batch.rows), rho
    plan = settings.get("plan", {})
    return learner.round(chain.state, batch.rows, first=False, forgetting=rho, **plan), rho


def adaptive(
    learner: Learner, chain: Chain, batch: Batch, settings: Mapping[str, Any]
) -> tuple[AdapterState, float]:
    """Go on as ours; where the batch is worse than what is known, try the setting `drifted` too."""
    usual, drifted = settings.get("rho", 1.0), settings["drifted"]
    if chain.state is None or not _drifts(learner, chain, batch):
        return ours(learner, chain, batch, settings)
    tried = [ours(learner, chain, batch, {**settings, "rho": rho}) for rho in (usual, drifted)]
    return min(tried, key=lambda one: nlls(learner, one[0], batch.selection).mean())


def scratch(
    learner: Learner, chain: Chain, batch: Batch, settings: Mapping[str, Any]
) -> tuple[AdapterState, float]:
    """Learn the batch as if it were the first."""
    return learner.round(learner.first(batch.rows.texts), batch.rows), 0.0


def held(point_weights: str, precision: float | None = None) -> Strategy:
    """Return the strategy of a point estimate that goes on, held in one of the plan's ways.

    Args:
        point_weights: "free", or "anchored" to the last values.
        precision: of the anchor, for every weight; None for the running Fisher information.
    """

    def learn(
        learner: Learner, chain: Chain, batch: Batch, settings: Mapping[str, Any]
    ) -> tuple[AdapterState, float]:
        if chain.state is None:
            return learner.round(learner.first(batch.rows.texts), batch.rows), 1.0
        start = chain.state
        if precision is not None:
            same = {name: torch.full_like(w, precision) for name, w in start.point.items()}
            start = replace(start, precision=same)
        held_by = {"point_weights": point_weights}
        return learner.round(start, batch.rows, first=False, **held_by), 1.0

    return learn


def replay(
    learner: Learner, chain: Chain, batch: Batch, settings: Mapping[str, Any]
) -> tuple[AdapterState, float]:
    """Go on, free, over the batch and the setting `share` of all earlier rows."""
    share = settings["share"]
    past = _joined([one.rows for one in chain.past])
    kept = Random(learner.seed).sample(range(len(past)), round(share * len(past)))
    rows = batch.rows + past.take(kept)
    if chain.state is None:
        return learner.round(learner.first(rows.texts), rows), 1.0
    return learner.round(chain.state, rows, first=False, point_weights="free"), 1.0


def full_replay(
    learner: Learner, chain: Chain, batch: Batch, settings: Mapping[str, Any]
) -> tuple[AdapterState, float]:
    """Learn all rows so far from the first state."""
    rows = _joined([*(one.rows for one in chain.past), batch.rows])
    return learner.round(learner.first(rows.texts), rows), 0.0


# A Gaussian as wide as the adapters' first prior, N(0, 0.1²).
AS_THE_FIRST_PRIOR = 0.1**-2

STRATEGIES: dict[str, Strategy] = {
    "ours": ours,
    "adaptive": adaptive,
    "scratch": scratch,
    "warm": held("free"),
    "l2": held("anchored", AS_THE_FIRST_PRIOR),
    "ewc": held("anchored"),
    "replay": replay,
    "full_replay": full_replay,
}


def nlls(learner: Learner, state: AdapterState, rows: Rows) -> np.ndarray:
    """Return the NLL of each row under the version's draws, (N,)."""
    draws = learner.says(state, rows, 8)
    found: np.ndarray = Categorical(draws, np.array(rows.labels)).signals["nll"]
    return found


def _drifts(learner: Learner, chain: Chain, batch: Batch) -> bool:
    """Say whether the champion is worse on the batch than on what it knows, as a round says it."""
    assert chain.state is not None
    known = _joined([one.selection for one in chain.past])
    known = known.take(range(max(0, len(known) - COMPARED), len(known)))
    if min(len(known), len(batch.selection)) < FEWEST_ROWS:
        return False
    here, there = (nlls(learner, chain.state, rows) for rows in (batch.selection, known))
    error = np.sqrt(here.var(ddof=1) / len(here) + there.var(ddof=1) / len(there))
    gap = float(here.mean() - there.mean())
    return Signal(gap, gap / max(float(error), 1e-12)).drifted


def _sequence(asked: Sequence[Mapping[str, Any]], seed: int, share: float) -> list[Batch]:
    """Return the batches: consecutive pieces of each set's training rows, no row twice."""
    taken: dict[str, int] = {}
    found = []
    for one in asked:
        name, count = one["set"], one["rows"]
        begun = taken.get(name, 0)
        # Where labels are thinned out, more rows are looked through for as many.
        looked = count * (3 if "share" in one else 1)
        taken[name] = begun + looked
        train, _, _ = rows_of(name, seed, begun + looked, 0)
        rows = _changed(train.take(range(begun, begun + looked)), one)
        rows = rows.take(range(min(count, len(rows))))
        selected = round(share * len(rows))
        found.append(
            Batch(
                one.get("name", name),
                rows.take(range(selected, len(rows))),
                rows.take(range(selected)),
            )
        )
    return found


def _tests(asked: Sequence[Mapping[str, Any]], seed: int) -> list[tuple[str, Rows]]:
    found = []
    for one in asked:
        looked = one["rows"] * (3 if "share" in one else 1)
        rows = _changed(rows_of(one["set"], seed, 0, looked)[2], one)
        found.append((one["name"], rows.take(range(min(one["rows"], len(rows))))))
    return found


def _changed(rows: Rows, one: Mapping[str, Any]) -> Rows:
    """Return the rows with two labels exchanged ("flip"), or thinned to a share of the first."""
    if one.get("flip"):
        return Rows(rows.texts, [1 - label for label in rows.labels])
    if "share" not in one:
        return rows
    first = [at for at, label in enumerate(rows.labels) if label == 0]
    other = [at for at, label in enumerate(rows.labels) if label != 0]
    count = one["rows"]
    wanted = round(one["share"] * count)
    places = first[:wanted] + other[: count - wanted]
    Random(0).shuffle(places)
    return rows.take(places)


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(
        [text for part in parts for text in part.texts],
        [label for part in parts for label in part.labels],
    )

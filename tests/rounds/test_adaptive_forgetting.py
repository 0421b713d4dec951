"""What drift-adaptive forgetting is worth, on a model whose posterior is exact.

A stream of batches y ~ N(w, 1) with a Gaussian over w: posterior → prior is conjugate, so all that
differs between the ways of forgetting is what they forget.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bhpeft.posterior import MeanField, power_prior
from bhpeft.rounds.forgetting import Signal, rhos
from bhpeft.stream import Adaptive, Learning

SEEDS, ROUNDS, ROWS = 60, 12, 40
SHAPES = {"w": (1,)}
BASE = MeanField.from_std(torch.zeros(1), torch.ones(1), SHAPES)
FIXED = Learning(forgetting=1.0)
ADAPTIVE = Learning(forgetting=1.0, adaptive=Adaptive(drifted=0.5))
# What a stream has that asks for no ρ of its own.
USUAL = Learning(forgetting=1.0, adaptive=Adaptive())
# As fast as the adaptive one at its fastest, at all times.
ALWAYS = Learning(forgetting=0.5)


def updated(prior: MeanField, rows: np.ndarray) -> MeanField:
    """Return the exact posterior of w after rows of unit variance."""
    precision = prior.std.square().reciprocal() + len(rows)
    pull = prior.std.square().reciprocal() * prior.mean + float(rows.sum())
    return MeanField.from_std(pull / precision, precision.rsqrt(), SHAPES)


def nll(q: MeanField, rows: np.ndarray) -> np.ndarray:
    """Return the predictive's NLL of each row, up to a constant."""
    variance = 1.0 + float(q.std) ** 2
    found: np.ndarray = 0.5 * np.log(variance) + (rows - float(q.mean)) ** 2 / (2 * variance)
    return found


@dataclass
class Run:
    """One stream's life: the squared error of its mean after each round, and rounds tried twice."""

    errors: list[float]
    twice: int = 0


def live(learning: Learning, truth: list[float], seed: int) -> Run:
    """Learn a batch a round as `bhpeft.rounds.training.train` does."""
    source = np.random.default_rng(seed)
    q, known, run = BASE, np.empty(0), Run([])
    stream = SimpleNamespace(learning=learning)
    for target in truth:
        batch = target + source.standard_normal(2 * ROWS)
        train, unseen = batch[:ROWS], batch[ROWS:]
        signal = None
        if len(known):
            here, there = nll(q, unseen), nll(q, known)
            error = np.sqrt(here.var(ddof=1) / len(here) + there.var(ddof=1) / len(there))
            gap = float(here.mean() - there.mean())
            signal = Signal(gap, gap / float(error))
        tried = [updated(power_prior(q, BASE, rho), train) for rho in rhos(stream, signal)]
        q = min(tried, key=lambda one: float(nll(one, unseen).mean()))
        run.twice += len(tried) > 1
        run.errors.append((float(q.mean) - target) ** 2)
        known = np.concatenate([known, unseen])[-5 * ROWS :]
    return run


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the mean's 95 % interval."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


FLIP = [1.0] * (ROUNDS // 2) + [-1.0] * (ROUNDS // 2)
STILL = [1.0] * ROUNDS
WALK = [float(at) for at in np.cumsum(0.25 * np.random.default_rng(7).standard_normal(ROUNDS))]


@pytest.fixture(scope="module")
def lives() -> dict[tuple[str, str], list[Run]]:
    ways = {"fixed": FIXED, "adaptive": ADAPTIVE, "usual": USUAL, "always": ALWAYS}
    truths = {"flip": FLIP, "still": STILL, "walk": WALK}
    return {
        (way, kind): [live(learning, truth, seed) for seed in range(SEEDS)]
        for way, learning in ways.items()
        for kind, truth in truths.items()
    }


def after(runs: list[Run], rounds: slice) -> np.ndarray:
    return np.array([np.mean(run.errors[rounds]) for run in runs])


def test_after_a_flip_the_adaptive_chain_recovers_and_the_one_that_forgets_nothing_does_not(
    lives: dict[tuple[str, str], list[Run]],
) -> None:
    """Over the six rounds after it less than half the squared error, at the end a quarter."""
    second = slice(ROUNDS // 2, None)
    fixed, adaptive = (
        after(lives["fixed", "flip"], second),
        after(lives["adaptive", "flip"], second),
    )
    assert interval(adaptive - fixed / 2)[1] < 0
    last = slice(-1, None)
    fixed, adaptive = after(lives["fixed", "flip"], last), after(lives["adaptive", "flip"], last)
    assert interval(adaptive - fixed / 4)[1] < 0


def test_to_start_over_where_the_past_is_wrong_is_better_than_to_keep_half_of_it(
    lives: dict[tuple[str, str], list[Run]],
) -> None:
    """After a flip a twentieth of the squared error is left, and where the truth walks less too."""
    second = slice(ROUNDS // 2, None)
    fixed, usual = (after(lives[way, "flip"], second) for way in ("fixed", "usual"))
    assert interval(usual - fixed / 20)[1] < 0
    half, usual = (after(lives[way, "walk"], slice(None)) for way in ("adaptive", "usual"))
    assert interval(usual - half)[1] < 0


def test_where_nothing_drifts_it_costs_little_and_less_than_forgetting_always(
    lives: dict[tuple[str, str], list[Run]],
) -> None:
    """A false alarm is one round in twenty by the test's level, about, and it is harmless."""
    late = slice(ROUNDS // 2, None)
    fixed, adaptive, always = (
        after(lives[way, "still"], late) for way in ("fixed", "adaptive", "always")
    )
    assert interval(adaptive - always)[1] < 0
    assert float(adaptive.mean()) < 1.5 * float(fixed.mean())
    usual = after(lives["usual", "still"], late)
    assert interval(usual - always)[1] < 0
    assert float(usual.mean()) < 1.5 * float(fixed.mean())
    alarms = sum(run.twice for run in lives["adaptive", "still"]) / (SEEDS * (ROUNDS - 1))
    assert 0.01 < alarms < 0.15

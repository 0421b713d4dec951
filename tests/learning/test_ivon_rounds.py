from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bhpeft.errors import RhoTravelTooShort
from bhpeft.learning.course import Course
from bhpeft.learning.descent import Descent
from bhpeft.learning.fit import fit
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import IVON
from tests import tiny
from tests.learning import problems

# Weight for weight what the plan of a stream gives, on problems of a few steps.
PLAN = {"rho_learning_rate": 0.2}


@pytest.mark.parametrize("estimator", ["shared", "per_example", "flipout"])
def test_the_loss_falls_whatever_the_estimator(tmp_path: Path, estimator: str) -> None:
    variant = replace(IVON, estimator=estimator)
    lesson = problems.lesson(tmp_path, variant=variant, epochs=30, **PLAN)
    curve = fit(lesson, tiny.generator()).curve
    assert curve[-1]["nll"] < 0.5 * curve[0]["nll"]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_every_method_learns_under_it(tmp_path: Path, family: str) -> None:
    """The union of all that has a place in the model: Llama has no biases."""
    names = [name for name in problems.SETTINGS if (family, name) != ("llama", "bitfit")]
    lesson = problems.lesson(
        tmp_path, names, family=family, variant=IVON, rows=16, epochs=1, **PLAN
    )
    state = fit(lesson, tiny.generator()).state
    again = AdapterState.load(state.save(tmp_path / "state"))
    moved = (again.posterior.mean != lesson.start.posterior.mean).double().mean()
    assert float(moved) > 0.9
    assert len(Predictor(lesson.model, again).probabilities(["w4 w5"], 3)) == 3


def test_a_round_is_lengthened_until_the_precision_is_replaced(tmp_path: Path) -> None:
    """Three steps an epoch of −log 0.9 each: what was travelled is what was asked for."""
    lesson = problems.lesson(tmp_path, variant=IVON, epochs=1, max_epochs=60, **PLAN)
    found = fit(lesson, tiny.generator())
    course, descent = Course(lesson, 1), Descent.begin(lesson, tiny.generator())
    for minibatch in lesson.rows.minibatches(8, tiny.generator()):
        descent.step(minibatch, 3)
    course.judge(1, descent)
    assert found.epochs > 1
    assert found.travel_met is True
    a_step = -torch.log(torch.tensor(0.9)).item()
    assert descent.travelled == pytest.approx(3 * a_step)
    assert 3 * (found.epochs - 1) * a_step < course._needed <= 3 * found.epochs * a_step + 0.5


def test_a_round_that_cannot_replace_it_is_refused_by_name(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path, variant=IVON, epochs=1, max_epochs=2, rho_learning_rate=0.01)
    with pytest.raises(RhoTravelTooShort, match="IVON to replace the precision"):
        fit(lesson, tiny.generator())


def test_a_second_round_starts_from_the_first_ones_posterior(tmp_path: Path) -> None:
    first = fit(problems.lesson(tmp_path, variant=IVON, epochs=10, **PLAN), tiny.generator()).state
    lesson = problems.lesson(tmp_path, variant=IVON, state=first, first=False, epochs=2, **PLAN)
    assert lesson.prior is first.posterior
    second = fit(lesson, tiny.generator(1)).state
    gap = (second.posterior.mean - first.posterior.mean).abs() / first.posterior.std
    assert 0 < float(gap.median()) < 2
    assert float((second.posterior.std / first.posterior.std).median()) < 1.05

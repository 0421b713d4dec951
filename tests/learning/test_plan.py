"""How fast a round learns, where its plan leaves that to the round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bhpeft.learning.fit import fit
from bhpeft.learning.lesson import rate_of_means
from bhpeft.learning.plan import FEWER_ROWS, FEWEST_STEPS, FULL_STEPS, RATE, ROWS, Plan
from bhpeft.learning.variants import BH_PEFT, VARIANTS
from tests import tiny
from tests.learning import problems


@pytest.mark.parametrize(
    ("steps", "times"), [(FULL_STEPS, 1.0), (4 * FULL_STEPS, 1.0), (FULL_STEPS // 4, 4.0)]
)
def test_a_quarter_of_the_steps_are_each_four_times_as_long(steps: int, times: float) -> None:
    """They can then bring the means as far; more steps than that are none the shorter."""
    assert Plan().rate_of_means(steps, longer=True) == pytest.approx(RATE * times)


@pytest.mark.parametrize("steps", [1, FEWEST_STEPS - 1])
def test_a_round_of_too_few_steps_takes_none_that_are_longer(steps: int) -> None:
    """A chain of them lost what it had learned at five times the rate."""
    assert Plan().rate_of_means(steps, longer=True) == RATE


def test_a_rate_that_is_named_is_taken_as_it_is() -> None:
    """However few the steps, and whatever the variant."""
    assert Plan(learning_rate=3e-3).rate_of_means(4, longer=True) == 3e-3


def test_a_variant_whose_steps_are_its_own_takes_them_as_they_are() -> None:
    """A point estimate over-fits sooner with longer steps; published systems have their own."""
    assert Plan().rate_of_means(4, longer=False) == RATE
    own = {name for name, one in VARIANTS.items() if not one.longer_steps}
    assert {"point", "map", "blob", "ivon", "bh_peft_paper"} <= own


def test_the_point_estimate_of_a_variant_takes_no_longer_steps(tmp_path: Path) -> None:
    """It has the variant's plan in all else, and nothing that draws disturb."""
    gaussian, point = (
        problems.lesson(tmp_path, variant=one, learning_rate=0.0)
        for one in (BH_PEFT, BH_PEFT.point())
    )
    assert rate_of_means(gaussian, FULL_STEPS // 4) == pytest.approx(4 * RATE)
    assert rate_of_means(point, FULL_STEPS // 4) == RATE


def test_a_round_moves_by_the_rate_its_plan_chose(tmp_path: Path) -> None:
    """The curve shows it: a training that says no rate is the one that names what it came to."""
    chosen = problems.lesson(tmp_path, epochs=16, learning_rate=0.0)
    rate = chosen.plan.rate_of_means(chosen.steps(16), longer=True)
    named = replace(chosen, plan=replace(chosen.plan, learning_rate=rate))
    found = [fit(lesson, tiny.generator()) for lesson in (chosen, named)]
    assert rate > 2 * RATE
    assert found[0].curve == found[1].curve
    assert max(point["learning_rate"] for point in found[0].curve) > RATE


@pytest.mark.parametrize(("epochs", "rows"), [(1, 84), (3, 528), (1, 1584)])
def test_a_short_round_takes_fewer_rows_a_minibatch(epochs: int, rows: int) -> None:
    assert Plan(epochs=epochs, max_epochs=epochs).minibatch(rows) == FEWER_ROWS


@pytest.mark.parametrize(("epochs", "rows"), [(1, 1585), (3, 529), (3, 10**7)])
def test_any_other_round_takes_the_usual_rows(epochs: int, rows: int) -> None:
    assert Plan(epochs=epochs, max_epochs=epochs).minibatch(rows) == ROWS


def test_a_round_that_can_be_lengthened_is_not_short() -> None:
    assert Plan(epochs=1, max_epochs=60).minibatch(84) == ROWS


@pytest.mark.parametrize(
    ("said", "expected"),
    [({"batch_size": 5}, 5), ({"max_steps": 20}, ROWS), ({"accumulate": 4}, ROWS)],
)
def test_a_plan_that_says_how_large_its_steps_are_is_taken_at_its_word(
    said: dict[str, int], expected: int
) -> None:
    assert Plan(**said, max_epochs=1).minibatch(84) == expected


def test_a_sample_for_a_bounded_number_of_steps_is_of_the_usual_minibatches() -> None:
    assert Plan(epochs=2, max_steps=20).most_rows == 10 * ROWS


def test_a_short_round_is_passed_over_in_the_smaller_minibatches(tmp_path: Path) -> None:
    fitted = fit(problems.lesson(tmp_path, batch_size=0, max_epochs=12), tiny.generator())
    assert fitted.minibatch == FEWER_ROWS
    assert fitted.steps == 3 * fitted.epochs  # of 24 rows

from __future__ import annotations

import numpy as np
import pytest

from bhpeft.tasks.choice import Choice
from bhpeft.tasks.chosen import Chosen

# Two draws of four questions: of three, three, two and two options.
FIRST = [[0.8, 0.1, 0.1], [0.2, 0.5, 0.3], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]]
SECOND = [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0]]
RIGHT = np.array([0, 2, 0, 0])


def said(probabilities: object = (FIRST, SECOND), right: np.ndarray = RIGHT) -> Chosen:
    return Chosen(np.array(probabilities, dtype=np.float64), right)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_chance_is_a_guess_among_each_rows_own_options() -> None:
    assert said().options.tolist() == [3, 3, 2, 2]
    assert said().quality(rng()).chance == pytest.approx((1 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


def test_the_margin_is_how_far_the_best_option_is_ahead_of_the_second() -> None:
    found = said().quality(rng())
    margins = [0.7 - 0.2, 0.4 - 0.3, 0.8 - 0.2, 0.7 - 0.3]
    np.testing.assert_allclose(said().margin, margins)
    assert found.margin == pytest.approx(np.mean(margins))
    assert found.margins[0] == (0.0, pytest.approx(0.1))
    assert found.margins[-1] == (1.0, pytest.approx(0.6))


def test_accuracy_is_told_by_options_and_by_the_place_of_the_right_answer() -> None:
    """And a place nothing is right at is told too, with how often it was chosen."""
    found = said().quality(rng())
    assert [(one.options, one.rows, one.accuracy) for one in found.by_options] == [
        (2, 2, 0.5),
        (3, 2, 0.5),
    ]
    assert [(one.place, one.rows, one.chosen) for one in found.by_place] == [
        (0, 3, 2),
        (1, 0, 2),
        (2, 1, 0),
    ]
    assert found.by_place[0].accuracy == pytest.approx(2 / 3)
    assert np.isnan(found.by_place[1].accuracy)
    assert found.by_place[2].accuracy == 0.0


def test_a_model_that_likes_a_place_is_told_from_one_that_reads() -> None:
    """Both are right on half of the rows; only one chooses a place more often than it is right."""
    right = np.arange(120) % 2
    partial = np.full((1, 120, 2), 0.5)
    partial[0, :, 0] = 0.9
    partial[0, :, 1] = 0.1
    reads = np.where(np.arange(120)[:, None] % 4 < 2, np.eye(2)[right], np.eye(2)[1 - right])
    biased, fair = (one.quality(rng()) for one in (said(partial, right), said(reads[None], right)))
    assert biased.accuracy == fair.accuracy == 0.5
    assert [one.chosen for one in biased.by_place] == [120, 0]
    assert [one.accuracy for one in biased.by_place] == [1.0, 0.0]
    assert [one.chosen for one in fair.by_place] == [60, 60]


def test_the_baseline_says_no_option_a_row_does_not_have() -> None:
    """It knows how often each place is right, and shares that among the options there are."""
    found = said().baseline(np.array([0.5, 0.25, 0.25]))
    assert found.options.tolist() == [3, 3, 2, 2]
    np.testing.assert_allclose(found.mean[0], [0.5, 0.25, 0.25])
    np.testing.assert_allclose(found.mean[2], [2 / 3, 1 / 3, 0.0])
    assert isinstance(found.take(np.array([True, False, True, False])), Chosen)


def test_an_option_that_is_there_is_never_impossible() -> None:
    """A long answer's likelihood beside a short one's is no float64, and still an option."""
    draws = np.array([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    found = Choice().scored(Choice().restricted(draws, np.array([2, 3])), np.array([0, 0]))
    assert found.options.tolist() == [2, 3]
    np.testing.assert_array_equal(found.mean.argmax(1), [0, 0])
    np.testing.assert_allclose(found.probabilities.sum(-1), 1.0)


def test_a_drift_table_shows_options_and_margin_beside_the_probabilities() -> None:
    seen = said().seen(("A", "B", "C"))
    assert seen["predictions"]["options"].tolist() == [3, 3, 2, 2]
    assert seen["labels"] == ("A", "B", "C")
    assert seen["probabilities"].shape == (4, 3)


@pytest.mark.parametrize("rows", [0, 2])
def test_without_rows_or_numbers_every_figure_is_missing(rows: int) -> None:
    found = said(np.full((1, rows, 3), np.nan), np.zeros(rows, dtype=np.int64)).quality(rng())
    assert np.isnan([found.chance, found.margin, found.accuracy]).all()
    assert found.by_place == found.by_options == found.margins == ()

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bhpeft.judgement.scored import Comparison
from bhpeft.tasks.categorical import Categorical, marginal
from tests.judgement.conftest import compare, read, task


def test_the_mean_is_over_draws_and_disagreement_is_information(rng: np.random.Generator) -> None:
    """Two certain draws that contradict each other: entropy and mutual information are log 2."""
    scored = Categorical(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.array([0]))
    np.testing.assert_allclose(scored.mean, [[0.5, 0.5]])
    assert scored.entropy[0] == pytest.approx(np.log(2))
    assert scored.mutual_information[0] == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    ("shape", "labels", "complaint"),
    [
        ((3, 2), [0, 1, 0], "expected"),
        ((0, 3, 2), [0, 1, 0], "expected"),
        ((1, 3, 2), [0, 1], "labels"),
        ((1, 3, 2), [0, 1, 2], "outside"),
        ((1, 3, 2), [0, 1, -1], "outside"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    shape: tuple[int, ...], labels: list[int], complaint: str
) -> None:
    """A wrong shape would otherwise become a wrong number."""
    with pytest.raises(ValueError, match=complaint):
        Categorical(np.full(shape, 0.5), np.array(labels))


def test_models_scored_on_other_rows_are_not_compared(rng: np.random.Generator) -> None:
    """A paired difference needs the same rows in the same order."""
    left, right = read(*task(rng, 20)), read(*task(rng, 20))
    with pytest.raises(ValueError, match="other rows"):
        compare("holdout", left, right)
    with pytest.raises(ValueError, match="19 rows"):
        Comparison("holdout", pd.DataFrame({"text": ["x"] * 19}), left, None)


def test_without_a_champion_the_reference_knows_only_the_label_shares() -> None:
    """The baseline gives every row the shares of the training rows."""
    labels = np.array([0, 1, 1])
    scored = Categorical(np.full((4, 3, 2), 0.5), labels)
    reference = compare("holdout", scored, None).reference(np.array([0.25, 0.75]))
    np.testing.assert_allclose(reference.mean, [[0.25, 0.75]] * 3)
    np.testing.assert_allclose(marginal(labels, 2).mean[0], [2 / 5, 3 / 5])


def test_taking_rows_takes_them_everywhere(rng: np.random.Generator) -> None:
    """A slice keeps text, labels and both models' scores aligned."""
    scored = read(*task(rng, 9))
    taken = compare("holdout", scored, scored).take(np.arange(9) % 3 == 0)
    assert set(taken.rows["kind"]) == {"rare"}
    np.testing.assert_array_equal(taken.candidate.labels, scored.labels[::3])
    np.testing.assert_array_equal(taken.candidate.mean, scored.mean[::3])

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhpeft.data.split import Fractions, position_of, side_of


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), min_size=1, max_size=20), st.integers(0, 1000))
def test_a_text_s_side_does_not_depend_on_its_neighbours(texts: list[str], seed: int) -> None:
    """The same row is on the same side in every batch, at every place."""
    sides = side_of(texts)
    order = np.random.default_rng(seed).permutation(len(texts))
    assert (side_of([texts[i] for i in order]) == sides[order]).all()
    assert side_of(texts[:1])[0] == sides[0]


def test_sides_are_the_same_for_ever() -> None:
    """A change here would examine every champion on what its ancestors were taught."""
    texts = ["", "good", "a bad film", "naïve café", "\ud800", *map(str, range(5))]
    t, s, h = "train", "selection", "holdout"
    assert side_of(texts).tolist() == [t, s, h, t, t, t, t, h, t, h]


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_case_and_white_space_do_not_count(text: str) -> None:
    """A copy that differs only in them is the same example."""
    assert position_of([text]) == position_of([f"  {text.casefold()}\n"])


def test_the_sides_have_their_fractions() -> None:
    """Positions are uniform: shares of 100,000 texts are within five standard errors."""
    rows = 100_000
    sides = side_of([f"text number {i}" for i in range(rows)])
    for side, share in (("train", 0.7), ("selection", 0.1), ("holdout", 0.2)):
        error = (share * (1 - share) / rows) ** 0.5
        assert abs((sides == side).mean() - share) < 5 * error


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(), max_size=50))
def test_positions_are_in_the_unit_interval(texts: list[str]) -> None:
    """0 is in it, 1 is not."""
    positions = position_of(texts)
    assert positions.shape == (len(texts),)
    assert ((positions >= 0) & (positions < 1)).all()


def test_a_side_of_no_share_gets_no_text() -> None:
    """Training on everything is possible, and then nothing is held out."""
    assert set(side_of(list(map(str, range(1000))), Fractions(1.0, 0.0, 0.0))) == {"train"}


@pytest.mark.parametrize("shares", [(0.5, 0.2, 0.2), (1.2, -0.4, 0.2)])
def test_fractions_that_are_none_are_refused(shares: tuple[float, float, float]) -> None:
    """They must be at least 0 and add up to 1."""
    with pytest.raises(ValueError, match="add up to 1"):
        Fractions(*shares)

from __future__ import annotations

import numpy as np
import pytest

from bhpeft.models.encode import PADDED, cuts


@pytest.mark.parametrize("most", [1, 7, 64])
def test_every_row_is_in_one_piece_and_shorter_rows_come_first(most):
    lengths = np.random.default_rng(0).integers(1, 60, 200).tolist()
    pieces = list(cuts(lengths, most))
    assert sorted(np.concatenate(pieces).tolist()) == list(range(200))
    assert max(map(len, pieces)) <= most
    assert np.diff([lengths[row] for piece in pieces for row in piece]).min() >= 0


def test_a_long_tail_is_cut_off_instead_of_padded_to():
    """Real texts: in one piece the 190 short rows would be as wide as the longest."""
    lengths = [20] * 190 + [30, 40, 60, 80, 90, 100, 110, 120, 126, 128]
    pieces = [np.array(lengths)[piece] for piece in cuts(lengths, 256)]
    padded = sum(len(piece) * piece.max() for piece in pieces)
    assert padded < 1.3 * sum(lengths) < len(lengths) * max(lengths)
    assert len(pieces[0]) * pieces[0].max() <= PADDED * pieces[0].sum()


def test_pieces_are_not_cut_below_a_quarter():
    """A pass of a row or two leaves most of a processor idle."""
    assert {len(piece) for piece in cuts([2**power for power in range(16)], 16)} == {4}


def test_no_rows_make_no_pieces():
    assert list(cuts([], 8)) == []

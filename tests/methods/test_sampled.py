from __future__ import annotations

import pytest
import torch

from bhpeft.errors import StateError
from bhpeft.methods.sampled import rows_of, sampled_linear, tile
from tests import tiny


@pytest.mark.parametrize("middle", [(), (5,), (2, 5)])
def test_stacked_draws_equal_one_linear_map_a_draw(middle):
    """Row s·B + b is example b under draw s, whatever dimensions lie between."""
    source = tiny.generator()
    x = torch.randn(3, *middle, 6, generator=source)
    weight = torch.randn(4, 7, 6, generator=source)
    bias = torch.randn(4, 7, generator=source)
    folded = sampled_linear(tile(x, 4), weight, bias)
    looped = torch.cat([x @ weight[s].T + bias[s] for s in range(4)])
    torch.testing.assert_close(folded, looped, atol=1e-6, rtol=1e-6)


def test_one_draw_an_example_gives_each_row_its_own_weight():
    """With S = rows nothing is tiled: row b is x_b W_bᵀ."""
    source = tiny.generator()
    x = torch.randn(5, 2, 6, generator=source)
    weight = torch.randn(5, 7, 6, generator=source)
    expected = torch.einsum("bti,boi->bto", x, weight)
    torch.testing.assert_close(sampled_linear(x, weight), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("drawn_weight", "drawn_bias"), [(True, False), (False, True)])
def test_weight_and_bias_may_be_drawn_apart(drawn_weight, drawn_bias):
    """A shared weight with a drawn bias, and the other way round, are draws too."""
    source = tiny.generator()
    x = torch.randn(6, 2, 4, generator=source)
    weight = torch.randn(*((3,) if drawn_weight else ()), 5, 4, generator=source)
    bias = torch.randn(*((3,) if drawn_bias else ()), 5, generator=source)
    found = sampled_linear(x, weight, bias)
    for s in range(3):
        w = weight[s] if drawn_weight else weight
        b = bias[s] if drawn_bias else bias
        rows = slice(2 * s, 2 * s + 2)
        torch.testing.assert_close(found[rows], x[rows] @ w.T + b, atol=1e-6, rtol=1e-6)


def test_rows_that_do_not_fit_the_draws_are_refused():
    """Five rows under two draws would give some row no draw, or two."""
    with pytest.raises(StateError, match="5 rows for 2 draws"):
        sampled_linear(torch.ones(5, 3), torch.ones(2, 4, 3))


def test_rows_of_orders_draws_before_examples():
    """The draws of rows 0 … 5 under three draws of two examples are 0 0 1 1 2 2."""
    assert rows_of(torch.arange(3)[:, None], 6).flatten().tolist() == [0, 0, 1, 1, 2, 2]

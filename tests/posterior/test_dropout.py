from __future__ import annotations

import pytest
import torch
from torch import Generator

from bhpeft.methods.sampled import sampled_linear
from bhpeft.posterior.dropout import dropped, masks, rates_of

SHAPES = {"a": (3, 40), "b": (40,)}


def test_a_masked_weight_is_the_map_of_the_inputs_that_are_left() -> None:
    """(W diag(z)) x = W (x ∘ z), each row of x under its own z."""
    source = Generator().manual_seed(0)
    weight, x = torch.randn(3, 40, generator=source), torch.randn(5, 7, 40, generator=source)
    z = masks(SHAPES, {"a": 0.3}, source, 5)["a"]
    drawn = dropped({"a": weight}, {"a": z})["a"]
    assert drawn.shape == (5, 3, 40)
    torch.testing.assert_close(sampled_linear(x, drawn), (x * z[:, None]) @ weight.t())


def test_masks_leave_out_the_share_they_say_and_keep_the_mean() -> None:
    found = masks(SHAPES, {"a": 0.25, "b": 0.1}, Generator().manual_seed(1), 4000)
    for name, rate in (("a", 0.25), ("b", 0.1)):
        z = found[name]
        # 160,000 coins: four standard errors.
        error = 4 * (rate * (1 - rate) / z.numel()) ** 0.5
        assert float((z == 0).float().mean()) == pytest.approx(rate, abs=error)
        assert float(z.mean()) == pytest.approx(1.0, abs=error / (1 - rate))
        assert z.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])


def test_a_seed_fixes_the_masks_and_the_weights_order_does_not() -> None:
    one = masks(SHAPES, {"a": 0.5, "b": 0.5}, Generator().manual_seed(2), 3)
    two = masks(SHAPES, {"b": 0.5, "a": 0.5}, Generator().manual_seed(2), 3)
    assert all(torch.equal(one[name], two[name]) for name in SHAPES)


def test_rates_are_given_by_part_and_used_by_name() -> None:
    parts = {"0.query.lora.a": "lora.a", "0.query.lora.b": "lora.b"}
    assert rates_of(parts, {"lora.a": 0.1}) == {"0.query.lora.a": 0.1}

from __future__ import annotations

import pytest
import torch

from bhpeft.models.pooling import POOLINGS


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([1, 1, 1, 0], {"mean": 1.0, "first": 0.0, "last": 2.0}),
        ([0, 1, 1, 1], {"mean": 2.0, "first": 1.0, "last": 3.0}),
        ([0, 1, 0, 0], {"mean": 1.0, "first": 1.0, "last": 1.0}),
    ],
)
def test_only_real_tokens_are_pooled_on_whichever_side_the_padding_is(mask, expected):
    """Token t holds the number t, so the pooled value says which tokens were read."""
    hidden = torch.arange(4.0)[None, :, None].expand(1, 4, 2)
    found = {name: pool(hidden, torch.tensor([mask])) for name, pool in POOLINGS.items()}
    for name, value in expected.items():
        assert found[name].tolist() == [[value, value]]


def test_the_mean_of_bfloat16_states_is_taken_in_float32():
    """Eight bits cannot hold a sum over many tokens: 300 ones would add up to 256."""
    hidden = torch.ones(1, 300, 1, dtype=torch.bfloat16)
    pooled = POOLINGS["mean"](hidden, torch.ones(1, 300))
    assert pooled.dtype == torch.float32
    assert pooled.item() == 1.0

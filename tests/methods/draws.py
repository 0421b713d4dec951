"""State, for one method, what has to hold of every method in an adapted model."""

from __future__ import annotations

from typing import Any

import torch

from bhpeft.methods import Method
from bhpeft.models.adapted import AdaptedModel
from tests import tiny
from tests.models.test_adapted import looped, vmapped


def adapted(family: str, *methods: Method, **options: Any) -> AdaptedModel:
    """Return a tiny adapted model with a head for three classes."""
    return AdaptedModel(tiny.base(family), methods, labels=3, generator=tiny.generator(), **options)


@torch.no_grad()
def assert_folded_is_looped_is_vmapped(model: AdaptedModel, only: str = "") -> None:
    """All draws in one pass, one pass a draw, and torch's vmap agree; also a draw an example.

    With `only`, just the weights whose name holds it are drawn; the others have one value.
    """
    minibatch = tiny.minibatch()
    for draws in (4, 3):
        weights = tiny.draw(model.shapes, draws=draws)
        fixed = {name: tensor[0] for name, tensor in weights.items() if only not in name}
        drawn = {name: tensor for name, tensor in weights.items() if only in name}
        with model.swapped(fixed):
            with model.swapped(drawn):
                folded = model.logits(minibatch)
                each = model.logits(minibatch, per_example=True) if draws == 3 else None
            torch.testing.assert_close(folded, looped(model, drawn, minibatch), **CLOSE)
        same = {name: tensor.expand(draws, *tensor.shape) for name, tensor in fixed.items()}
        torch.testing.assert_close(folded, vmapped(model, drawn | same, minibatch), **CLOSE)
        if each is not None:
            torch.testing.assert_close(each, folded.view(3, 3, 3)[range(3), range(3)], **CLOSE)


@torch.no_grad()
def assert_padding_changes_nothing(model: AdaptedModel) -> None:
    """A text alone and the same text padded beside longer ones get the same logits."""
    minibatch = tiny.minibatch()
    with model.swapped(tiny.draw(model.shapes, draws=2)):
        together = model.logits(minibatch).view(2, 3, 3)
        for row, real in enumerate(minibatch["attention_mask"].sum(1).tolist()):
            one = {name: tensor[row : row + 1, :real] for name, tensor in minibatch.items()}
            torch.testing.assert_close(together[:, row], model.logits(one), **CLOSE)


CLOSE = {"atol": 1e-5, "rtol": 1e-5}

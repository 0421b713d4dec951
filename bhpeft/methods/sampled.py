"""Apply a linear map whose weight may be one tensor or a stack of S draws of it.

Rows are ordered draws-major: activation row s·B + b belongs to draw s and example b. So

    weight (out, in)       one weight for every row
    weight (S, out, in)    draw s for rows s·B … (s+1)·B − 1, as one batched matrix product

covers one draw a minibatch (S = 1), one draw an example (S = rows, so B = 1), and the whole
posterior predictive (the minibatch tiled S times) with the same code. These functions
are the only place in the package that knows what a draw is.

Source: method notes §2, "a draw is a weight with a leading dimension".
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bhpeft.errors import StateError


def sampled_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b, with the draw each row belongs to.

    Args:
        x: activations, (rows, …, in); rows = S·B, draws-major, where anything is drawn.
        weight: (out, in), or (S, out, in).
        bias: (out,), or (S, out).

    Returns:
        (rows, …, out).

    Raises:
        StateError: the rows are not a whole number of times the draws.
    """
    drawn_bias = bias is not None and bias.ndim == 2
    if weight.ndim == 2:
        y = F.linear(x, weight, None if drawn_bias else bias)
    else:
        draws = _checked(weight.shape[0], x.shape[0])
        flat = x.reshape(draws, -1, x.shape[-1])
        y = torch.bmm(flat, weight.transpose(1, 2)).reshape(*x.shape[:-1], weight.shape[1])
        if bias is not None and not drawn_bias:
            y = y + bias
    return sampled_shift(y, bias) if bias is not None and drawn_bias else y


def sampled_shift(y: Tensor, shift: Tensor) -> Tensor:
    """Return y + b, with the draw each row belongs to.

    Args:
        y: activations, (rows, …, out).
        shift: (out,), or (S, out).

    Returns:
        (rows, …, out).

    Raises:
        StateError: the rows are not a whole number of times the draws.
    """
    if shift.ndim == 1:
        return y + shift
    rows = y.shape[0]
    return y + rows_of(shift, rows).reshape(rows, *(1,) * (y.ndim - 2), shift.shape[-1])


def rows_of(drawn: Tensor, rows: int) -> Tensor:
    """Give each activation row the draw it belongs to.

    Args:
        drawn: (S, …), one entry a draw.
        rows: the number of activation rows, a multiple of S.

    Returns:
        (rows, …).
    """
    repeats = rows // _checked(drawn.shape[0], rows)
    return drawn if repeats == 1 else drawn.repeat_interleave(repeats, dim=0)


def tile(x: Tensor, draws: int) -> Tensor:
    """Repeat a minibatch for every draw, draws-major.

    Args:
        x: (B, …).
        draws: S.

    Returns:
        (S·B, …).
    """
    return x if draws == 1 else x.repeat(draws, *(1,) * (x.ndim - 1))


def _checked(draws: int, rows: int) -> int:
    if rows % draws:
        raise StateError(
            "The activations do not fit the draws of the weights",
            found=f"{rows} rows for {draws} draws",
            expected="the minibatch tiled once a draw, or one draw for each example",
            remedy="Pass as many draws as examples, or let AdaptedModel.logits tile the minibatch.",
        )
    return draws

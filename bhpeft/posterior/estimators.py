"""Draw the noise of one training step: one draw for all rows, one a row, or flipout between them.

    shared        ε, (P,): every row of the minibatch sees the same weights
    per_example   ε_b, (B, P): every row sees weights of its own
    flipout       ε ∘ (r_b s_bᵀ), (B, P): one ε, its signs flipped anew for every row
    mean          0, (P,): the mean alone is learned, for a σ that is found afterwards

The first three have the same expectation. A shared draw's error is common to all rows of a
minibatch and does not average out over them; with draws of their own it does. Flipout gets most of
that from P normal numbers and B·(out + in) signs a weight matrix, because ε is symmetric: an ε with
random signs is an ε. r_b and s_b are one pair for each row (for all its tokens), so that each row
still sees *one* value of the weights, as the posterior predictive does.

Source: Wen et al. 2018 (arXiv 1803.04386), equations 3 and 4; BLoB (arXiv 2406.11675) §3.3 uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from bhpeft.posterior.meanfield import MeanField, unflatten

# Called with q, the source of randomness and the rows of the minibatch.
Estimator = Callable[[MeanField, Generator, int], Tensor]


def shared(q: MeanField, generator: Generator, rows: int) -> Tensor:
    """Return one noise for the whole minibatch, (P,)."""
    return q.noise(generator)


def per_example(q: MeanField, generator: Generator, rows: int) -> Tensor:
    """Return an independent noise for every row, (rows, P)."""
    return q.noise(generator, rows)


def flipout(q: MeanField, generator: Generator, rows: int) -> Tensor:
    """Return one noise with signs of its own for every row, (rows, P).

    A vector's signs flip with s_b alone.
    """
    base = q.noise(generator)
    flipped = torch.empty(rows, q.size, device=base.device)
    views = unflatten(flipped, q.shapes)
    for name, noise in unflatten(base, q.shapes).items():
        last = _signs((rows, noise.shape[-1]), generator, base)
        if noise.ndim == 1:
            torch.mul(noise, last, out=views[name])
        else:
            lead = _signs((rows, *noise.shape[:-1]), generator, base)
            torch.mul(noise * last[:, None], lead[..., None], out=views[name])
    return flipped


def mean(q: MeanField, generator: Generator, rows: int) -> Tensor:
    """Return no noise at all, (P,): q's mean then goes to the mode, as MAP."""
    return torch.zeros_like(q.mean)


ESTIMATORS: dict[str, Estimator] = {
    "shared": shared,
    "per_example": per_example,
    "flipout": flipout,
    "mean": mean,
}


def _signs(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    """Return random ±1, made where the generator lives so that a seed fixes them on any device."""
    bits = torch.randint(2, shape, generator=generator, device=generator.device)
    return (2 * bits - 1).to(like)

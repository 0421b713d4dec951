"""Mend what one pass with the mean weights misses, by two numbers measured once a round.

Under the posterior the logits of a row are almost exactly Gaussian. Their mean is not f(m) but
shrunk, and their spread is much the same for all rows:

    E f(θ) ≈ a · f(m)          Var f(θ) ≈ v        p(y|x) ≈ E_ε softmax(a · f(m) + √v · ε)

a and v are moments of a few sampled passes over unlabelled rows. What they cannot tell is which row
the draws disagree on; `tilted` gives draws that can the mean that a and v say.

Source: performance notes, "Posterior predictive": "what cheap predictors miss is the mean shift".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log

import torch
from torch import Generator, Tensor

# Fixed normal numbers the expectation is taken over; with their negatives twice as many. The error
# they leave in a probability is below 0.01 at a spread of 1, and the same for every row.
NORMALS = 64
# Steps of `tilted`: each squares what is left of the error where draws hardly differ.
STEPS, CLOSE = 100, 1e-9


@dataclass(frozen=True)
class Scalars:
    """What is distilled of a posterior.

    Attributes:
        shrink: a, the mean logit over the logit of the mean weights.
        variance: v of a logit under the posterior.
        spread: g, the variance of logits over that of the model made linear in its weights.
    """

    shrink: float = 1.0
    variance: float = 0.0
    spread: float = 1.0

    def as_dict(self) -> dict[str, float]:
        """Return them by name."""
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, float]) -> Scalars:
        """Return the scalars of `as_dict`; those that change nothing where there are none."""
        return cls(**stored)


def distil(at_mean: Tensor, drawn: Tensor, linear: Tensor | None = None) -> Scalars:
    """Return the scalars of a posterior.

    Logits are centred over classes first: a softmax does not see their common part.

    Args:
        at_mean: (N, C), the logits of the mean weights.
        drawn: (S, N, C), those of antithetic draws, two pairs at least. Their mean has no error
            of odd order, so that deviations from it are divided by S.
        linear: (N, C, C), the covariance of the linear model's; None leaves its spread as it is.
    """
    center, drawn = _centred(at_mean), _centred(drawn)
    classes = at_mean.shape[-1]
    first, second = drawn.chunk(2)
    along = ((first + second) / 2 * center).sum((-1, -2))
    shrink = _told(along / center.square().sum().clamp_min(1e-30))
    variance = float((drawn - drawn.mean(0)).square().mean()) * classes / max(1, classes - 1)
    if linear is None:
        return Scalars(shrink, variance)
    expected = linear.double().diagonal(dim1=-2, dim2=-1).sum()
    found = ((first - second) / 2).square().sum((-1, -2))
    return Scalars(shrink, variance, _told(found / expected.clamp_min(1e-30)))


def calibrated(at_mean: Tensor, scalars: Scalars) -> Tensor:
    """Return E_ε softmax(a · f(m) + √v · ε), (N, C) float64, of logits f(m) (N, C)."""
    source = Generator().manual_seed(0)
    half = torch.randn(NORMALS, 1, at_mean.shape[-1], generator=source, dtype=torch.float64)
    noise = torch.cat([half, -half]).to(at_mean.device)
    logits = scalars.shrink * at_mean.double() + scalars.variance**0.5 * noise
    return logits.softmax(-1).mean(0)


def tilted(logits: Tensor, target: Tensor) -> Tensor:
    """Shift the logits of a row's draws, all alike, so that their mean probability is `target`.

    There is one such shift a row and class, up to a constant: the mean's logarithm is the gradient
    of a convex function of it.

    Args:
        logits: (S, N, C).
        target: (N, C), positive.

    Returns:
        (S, N, C) float64.
    """
    wanted, log_probs = target.double().log(), logits.double().log_softmax(-1)
    for _ in range(STEPS):
        log_mean = log_probs.logsumexp(0) - log(len(log_probs))
        missing = wanted - log_mean
        log_probs = (log_probs + missing).log_softmax(-1)
        if not bool((missing.abs() >= CLOSE).any()):
            break
    return log_probs


def _told(found: Tensor) -> float:
    """Return what pairs of draws, (S / 2,), say on average, as far as they can tell it from 1.

    A few pairs of a narrow posterior scatter by more than there is to mend. Positive-part James and
    Stein: the distance from 1 shrinks by the share of it that is the mean's own variance.
    """
    mean, scatter = float(found.mean()), float(found.var(correction=1)) / len(found)
    return 1.0 + (mean - 1.0) * max(0.0, 1.0 - scatter / max((mean - 1.0) ** 2, 1e-30))


def _centred(logits: Tensor) -> Tensor:
    logits = logits.double()
    return logits - logits.mean(-1, keepdim=True)

"""Predict with the model made linear in its Gaussian weights: all of them, from one pass and back.

    f(θ) ≈ a · f(m) + √g · J (θ − m)        so        f(θ) ~ N( a · f(m),  g · J Σ Jᵀ )

J, the derivative of a row's outputs by the weights at the mean m, takes one backward pass an
output; of class logits one fewer, since a softmax does not see their common part. The covariance is
exact for the linear model, so no draw adds its noise to it, and all layers take part: what the last
layer's draws miss. The draws given are fixed normal numbers in that covariance. What is not linear,
two numbers distilled once a round put right on average (`bhpeft.posterior.distilled`): a, by which
logits shrink, and g, the ratio of their variances.

One weight an example, each the mean, makes autograd return each row's own derivative, whatever the
methods are.

Source: Immer et al. 2021 (arXiv 2008.08216), the generalised linear model of a network, here around
a variational posterior instead of a Laplace approximation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import unflatten
from bhpeft.posterior.distilled import Scalars
from bhpeft.tasks.categorical import FIGURES

# Fixed normal numbers, half of them the negatives of the others.
LINEAR_DRAWS = 32


def linear_logits(
    model: AdaptedModel, state: AdapterState, minibatch: Mapping[str, Tensor]
) -> Tensor:
    """Return draws of the linear model's logits, (S, B, C)."""
    scalars = Scalars.of(state.spec.scalars)
    center, slopes = derivatives(model, state, minibatch)
    root = _root(scalars.spread * slopes @ slopes.mT)
    half = torch.randn(
        LINEAR_DRAWS // 2, center.shape[-1], generator=Generator().manual_seed(0), dtype=root.dtype
    )
    noise = torch.cat([half, -half]).to(root.device)
    return (scalars.shrink * center + torch.einsum("bij,sj->sbi", root, noise)).to(center.dtype)


def covariance(model: AdaptedModel, state: AdapterState, minibatch: Mapping[str, Tensor]) -> Tensor:
    """Return J Σ Jᵀ of each row, (B, C, C)."""
    _, slopes = derivatives(model, state, minibatch)
    return slopes @ slopes.mT


def derivatives(
    model: AdaptedModel, state: AdapterState, minibatch: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return what the mean weights say of each row, and how it moves by a σ of each weight.

    Args:
        model: what the state is swapped into.
        state: its posterior; its point weights stay as they are.
        minibatch: B rows.

    Returns:
        (B, C) and (B, C, P); of class logits both centred over classes.
    """
    q, rows = state.posterior.to(model.device), len(minibatch["input_ids"])
    width = unflatten(q.std, q.shapes)
    weights = {
        name: mean.expand(rows, *mean.shape).contiguous().requires_grad_()
        for name, mean in unflatten(q.mean, q.shapes).items()
    }
    point = {name: value.to(model.device) for name, value in state.point.items()}
    classes = state.spec.predicted.figures is FIGURES
    with torch.enable_grad(), model.swapped(weights | point):
        outputs = model.logits(minibatch, per_example=True)
        outputs = outputs - outputs.mean(-1, keepdim=True) if classes else outputs
        slopes = _slopes(outputs[:, : -1 if classes else None], list(weights.values()))
    slopes = slopes * torch.cat([width[name].flatten() for name in weights])
    if classes:
        slopes = torch.cat([slopes, -slopes.sum(1, keepdim=True)], dim=1)
    return outputs.detach(), slopes


def _slopes(outputs: Tensor, weights: list[Tensor]) -> Tensor:
    """Return the derivatives of (B, c) outputs by each row's own weights, (B, c, P)."""
    rows, count = outputs.shape
    found = []
    for at in range(count):
        gradients = torch.autograd.grad(
            outputs[:, at].sum(), weights, retain_graph=at < count - 1, allow_unused=True,
            materialize_grads=True,
        )  # fmt: skip
        found.append(torch.cat([one.reshape(rows, -1) for one in gradients], dim=1))
    return torch.stack(found, dim=1)


def _root(covariance: Tensor) -> Tensor:
    """Return R with R Rᵀ the covariance (B, C, C), which may be singular; float64."""
    values, vectors = torch.linalg.eigh(covariance.double())
    return vectors * values.clamp_min(0.0).sqrt()[:, None, :]

"""Make a trained LoRA Bayesian without training: find one σ for all its noise on rows it never saw.

    B A = (B V)(Vᵀ A)        V, d² from Bᵀ B = V diag(d²) Vᵀ
    std(Vᵀ A)_ij = σ_q / d_i, and no more than the base prior's

B V has orthogonal columns of the lengths d, so noise of σ_q/d_i on the rows of Vᵀ A is noise of σ_q
on the weight itself, isotropic in the columns B spans: one number says how wide it is. The largest
σ_q is taken whose NLL on the selection rows is within `TOLERANCE` of the best one's.

As published, σ_q is the largest that makes an anchor set not worse than the mean weights do. On
rows that were learned that is a bound; on rows that were not, an overconfident NLL first *falls*
with σ_q and is back where it began only when everything is noise. So the best is our reference.

Source: Shi et al. 2024 (arXiv 2412.05723) §3 for the family and the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bhpeft.errors import ConfigError
from bhpeft.learning.state import AdapterState
from bhpeft.posterior import SCALES, MeanField, flatten, unflatten

if TYPE_CHECKING:
    from bhpeft.learning.finishes import Selection
    from bhpeft.learning.lesson import Lesson

# The lengths of B's columns, (rank,), by the name of A.
Lengths = Mapping[str, Tensor]

# Relative, of the NLL.
TOLERANCE = 0.003
# σ_q is tried at the base prior's width on the longest column, and at halves of it.
HALVINGS = 12
# More rows would not move the choice between halves.
MOST_ROWS = 256


def training_free(state: AdapterState, lesson: Lesson, selection: Selection) -> AdapterState:
    """Return the state with a σ of LoRA's A that the selection rows like, in the axes of its B.

    What the mean weights say does not change.

    Raises:
        ConfigError: there is no LoRA with a Gaussian A and a point B, or there are no rows.
    """
    pairs = _pairs(state)
    if not pairs or not len(selection.texts):
        raise ConfigError(
            "A σ cannot be found without training",
            found=f"{len(pairs)} LoRA factors with a posterior, "
            f"{len(selection.texts)} selection rows",
            expected="a LoRA whose A is Gaussian and whose B is not, and selection rows",
            remedy="Use lora under the blob parameterisation, or raise data.selection.",
        )
    if lesson.first:
        state = turned(state)
    lengths = {a: state.point[b].norm(dim=0) for a, b in pairs.items()}
    rows = selection.first(MOST_ROWS)
    widest = _widest(state, lengths)
    tried = [_spread(state, lengths, widest / 2**k) for k in range(HALVINGS)]
    losses = [rows.nll(lesson.model, one.with_spec(draws=one.spec.draws or 8)) for one in tried]
    most = min(losses) + TOLERANCE * abs(min(losses))
    return next(one for one, loss in zip(tried, losses, strict=True) if loss <= most)


def _pairs(state: AdapterState) -> dict[str, str]:
    """Return the name of B by that of A."""
    own = (name for name in state.posterior.shapes if name.endswith(".lora.a"))
    found = {name: f"{name.removesuffix('a')}b" for name in own}
    return {a: b for a, b in found.items() if b in state.point}


def turned(state: AdapterState) -> AdapterState:
    """Return the same function with V of each LoRA's B on the other side: B V and Vᵀ A.

    Once a chain: afterwards B is anchored, and its columns stay about orthogonal.
    """
    q, prior = state.posterior, state.prior
    mean, base = unflatten(q.mean, q.shapes), unflatten(prior.mean, prior.shapes)
    point, precision = dict(state.point), dict(state.precision)
    for a, b in _pairs(state).items():
        outer = point[b].double()
        turn = torch.linalg.eigh(outer.t() @ outer).eigenvectors.float()
        mean[a], base[a] = turn.t() @ mean[a], turn.t() @ base[a]
        # Fisher information of a sum of columns, as far as a diagonal knows it.
        point[b], precision[b] = point[b] @ turn, precision[b] @ turn.square()
    return replace(
        state,
        posterior=replace(q, mean=flatten(mean, q.shapes)),
        prior=replace(prior, mean=flatten(base, prior.shapes)),
        point=point,
        precision=precision,
    )


def _widest(state: AdapterState, lengths: Lengths) -> float:
    """Return the σ_q from which on every weight is as wide as the base prior."""
    width = unflatten(state.prior.std, state.prior.shapes)
    return max(float(width[name].max() * one.max()) for name, one in lengths.items())


def _spread(state: AdapterState, lengths: Lengths, sigma: float) -> AdapterState:
    q = state.posterior
    width = unflatten(state.prior.std, state.prior.shapes)
    std = unflatten(q.std, q.shapes)
    for name, one in lengths.items():
        # Along a column of no length any noise is none.
        noise = torch.where(one > 0, sigma / one, torch.inf)
        std[name] = torch.minimum(noise[:, None], width[name])
    rho = unflatten(q.rho, q.shapes)
    wide = {name: SCALES[q.scale].rho(std[name]) if name in lengths else rho[name] for name in rho}
    return replace(state, posterior=MeanField(q.mean, flatten(wide, q.shapes), q.shapes, q.scale))

"""Learn the first round's prefix through a network, and leave the network behind.

    [P_k; P_v] of all layers = W₂ tanh(W₁ E + b₁) + b₂
    E (length, d)   W₁ (inner, d)   W₂ (2 · layers · key-value width, inner)

A prefix learned flat from a small start is slow, which is what the network is published for. It
stands outside of the model, as the posterior does: a draw of its weights becomes a draw of keys and
values, and the model never knows. A posterior on W₁ means nothing once W₂ moves, so it lasts for
one round: afterwards the keys and values themselves are the weights, around the ones the network's
mean makes, and a last look at the rows gives each of them its own curvature h:

    σ = (1/s̃² + N·h/λ)^(−½)        or, for point weights, the anchor's precision N·h/λ

Sources: Li & Liang 2021 (arXiv 2101.00190) §4.3 for the network and for dropping it afterwards;
Daxberger et al. 2021 (arXiv 2106.14806) for the Gaussian around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from bhpeft.learning.lesson import Lesson
from bhpeft.learning.look import curvature
from bhpeft.learning.state import AdapterState, layout
from bhpeft.methods import Prefix, method
from bhpeft.methods.prefix import PrefixKeyValue
from bhpeft.methods.start import kaiming
from bhpeft.posterior import SCALES, MeanField, flatten, online_precision, unflatten

TABLE, FIRST, FIRST_BIAS = "prefix.table", "prefix.first", "prefix.first_bias"
SECOND, SECOND_BIAS = "prefix.second", "prefix.second_bias"


@dataclass(frozen=True)
class Projection:
    """The network's shape, and whose keys and values it makes.

    Attributes:
        flat: the names of keys and values, in the order of the network's outputs.
        length: prefix positions.
        width: of keys and of values.
        inner: of the network.
        outer: of E, the model's hidden size.
    """

    flat: tuple[str, ...]
    length: int
    width: int
    inner: int
    outer: int

    def start(self, generator: Generator) -> dict[str, Tensor]:
        """Return the weights it starts from: as an embedding and two linear maps do."""
        outputs = len(self.flat) * self.width
        return {
            TABLE: torch.randn(self.length, self.outer, generator=generator),
            FIRST: kaiming(self.inner, self.outer, generator),
            FIRST_BIAS: torch.zeros(self.inner),
            SECOND: kaiming(outputs, self.inner, generator),
            SECOND_BIAS: torch.zeros(outputs),
        }

    def realised(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the model's weights: the network's become keys and values, others stay.

        Args:
            weights: any of them with one leading dimension of draws.
        """
        own = {TABLE, FIRST, FIRST_BIAS, SECOND, SECOND_BIAS}
        table, first, bias = weights[TABLE], weights[FIRST], weights[FIRST_BIAS]
        low = torch.tanh(table @ first.transpose(-1, -2) + bias.unsqueeze(-2))
        high = low @ weights[SECOND].transpose(-1, -2) + weights[SECOND_BIAS].unsqueeze(-2)
        made = dict(zip(self.flat, torch.split(high, self.width, dim=-1), strict=True))
        return {name: w for name, w in weights.items() if name not in own} | made


def projection_of(lesson: Lesson) -> Projection | None:
    """Return the network the round's prefix is learned through; None after the first round."""
    if not lesson.first:
        return None
    made = (method(name, settings) for name, settings in lesson.start.spec.methods.items())
    inner = next((one.projection for one in made if isinstance(one, Prefix)), 0)
    sites = lesson.model.sites
    flat = tuple(n for n, site in sites.items() if isinstance(site.module, PrefixKeyValue))
    if not inner or not flat:
        return None
    length, width = sites.shapes[flat[0]]
    outer = lesson.model.model.config.hidden_size
    return Projection(flat, length, width, inner, outer)


def entered(lesson: Lesson, projection: Projection, generator: Generator) -> Lesson:
    """Return the round with the network's weights in place of keys and values.

    W₁ is Gaussian where the variant makes "prefix.first" so, under its prior for it; the others are
    points without a prior of their own.
    """
    start, variant = lesson.start, lesson.variant
    weights = projection.start(generator)
    gaussian = {FIRST: weights[FIRST]} if FIRST in variant.gaussian else {}
    points = {name: w for name, w in weights.items() if name not in gaussian}
    width = variant.prior_std(FIRST, projection.outer, None)
    wide = {name: torch.full_like(w, width) for name, w in gaussian.items()}
    began = {name: torch.full_like(w, min(variant.start_std[1], width)) for name, w in wide.items()}
    nothing = {name: torch.zeros_like(w) for name, w in gaussian.items()}
    keep = set(projection.flat)
    inside = replace(
        start,
        posterior=_with(start.posterior, gaussian, began, keep),
        prior=_with(start.prior, nothing, wide, keep),
        point=_without(start.point, keep) | points,
        precision=_without(start.precision, keep)
        | {name: torch.zeros_like(w) for name, w in points.items()},
    )
    return replace(lesson, start=inside, prior=inside.prior, projection=projection)


def ejected(
    lesson: Lesson,
    inside: Lesson,
    projection: Projection,
    state: AdapterState,
    generator: Generator,
) -> AdapterState:
    """Return the learned state with keys and values for the network that made them.

    Args:
        lesson: the round as it was before `entered`: the keys' and values' own prior.
        inside: the round as it was learned.
        projection: the network of it.
        state: as learned inside.
        generator: of the draws and the order of the last look at the rows.
    """
    q = state.posterior
    learned = projection.realised(unflatten(q.mean, q.shapes) | dict(state.point))
    flat = lesson.start.posterior
    known = unflatten(q.rho, q.shapes)
    rho = {name: known.get(name, w) for name, w in unflatten(flat.rho, flat.shapes).items()}
    point = {name: learned[name] for name in lesson.start.point}
    precision = {name: state.precision.get(name, w) for name, w in lesson.start.precision.items()}
    mean = flatten({name: learned[name] for name in flat.shapes}, flat.shapes)
    posterior = replace(flat, mean=mean, rho=flatten(rho, flat.shapes))
    out = replace(
        lesson.start, posterior=posterior, point=point, precision=precision, spec=state.spec
    )
    return _curved(replace(lesson, start=out, variant=inside.variant), projection, generator)


def _curved(lesson: Lesson, projection: Projection, generator: Generator) -> AdapterState:
    """Return the start of a round with the curvature of its keys and values, by a look at its rows.

    The draws are the posterior's, nothing moves.
    """
    state, lam = lesson.start, lesson.variant.kl_weight
    rows = len(lesson.rows)
    of_gaussian, of_point = curvature(lesson, generator)
    q, prior = state.posterior, lesson.prior
    std = (prior.std.square().reciprocal() + rows / lam * of_gaussian).rsqrt()
    seen = unflatten(SCALES[q.scale].rho(std), q.shapes)
    mine = set(projection.flat)
    rho = {n: seen[n] if n in mine else w for n, w in unflatten(q.rho, q.shapes).items()}
    shapes = layout(state.point)
    anchor = online_precision(flatten(state.precision, shapes), of_point, rows, kl_weight=lam)
    held = unflatten(anchor, shapes)
    precision = {n: held[n] if n in mine else w for n, w in state.precision.items()}
    posterior = replace(q, rho=flatten(rho, q.shapes))
    return replace(state, posterior=posterior, precision=precision)


def _with(
    field: MeanField,
    means: Mapping[str, Tensor],
    stds: Mapping[str, Tensor],
    without: set[str],
) -> MeanField:
    """Return a Gaussian with some of its weights exchanged for others."""
    mean = _without(unflatten(field.mean, field.shapes), without) | dict(means)
    own = {name: SCALES[field.scale].rho(std) for name, std in stds.items()}
    rho = _without(unflatten(field.rho, field.shapes), without) | own
    shapes = layout(mean)
    return MeanField(flatten(mean, shapes), flatten(rho, shapes), shapes, field.scale)


def _without(weights: Mapping[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    return {name: w for name, w in weights.items() if name not in names}

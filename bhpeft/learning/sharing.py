"""Say whether posteriors may be averaged, and start a state at what a population has in common.

A posterior over one factor of a map means something only beside the other factor. Posteriors may
therefore share a population where all that multiplies their Gaussian weights is the same to the
bit: frozen factors from one seed (`linear` and `core`), and point weights that never move. A head
that is a point is each task's own: it multiplies what comes out, and stands on no factor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from bhpeft.errors import StateError
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import Variant
from bhpeft.methods import block_of
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import MeanField, Population, flatten, population, unflatten

HEAD = "head."
"""How the names of a head's weights begin."""


def coordinates(state: AdapterState) -> str:
    """Return the hash of what a state's Gaussian weights stand beside, its head apart."""
    return coordinates_of(state.spec.gauge, state.point)


def coordinates_of(gauge: str, point: Mapping[str, Tensor]) -> str:
    """Return the hash of a gauge and of the point weights that are no head's."""
    digest = hashlib.sha256(gauge.encode())
    for name, value in sorted(beside(point).items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def beside(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that are no head's."""
    return {name: value for name, value in weights.items() if not name.startswith(HEAD)}


def check_shares(model: AdaptedModel, variant: Variant) -> None:
    """Refuse a variant under which a factor beside Gaussian weights is learned as a point.

    Raises:
        StateError: so it is, or nothing is Gaussian.
    """
    parts = {part for name, part in model.sites.parts.items() if not name.startswith(HEAD)}
    moving = sorted(parts - variant.gaussian)
    if moving or not parts:
        raise StateError(
            f"Posteriors of the variant {variant.name!r} cannot be averaged",
            found=f"{', '.join(moving)} learned as a point beside them" if moving else "none",
            expected="one gauge: whatever multiplies a Gaussian weight stays as it is",
            remedy='Use variant = "bora", or another whose parameterisation is linear or core.',
        )


def common(states: Sequence[AdapterState]) -> Population:
    """Return the population before any task was seen, over the first state's weights."""
    return population(states[0].prior, block_of)


def base_prior(known: Population, own: MeanField, same_head: bool = True) -> MeanField:
    """Return N(Θ, 1/τ) over a task's weights; of those it does not share, the task's own prior.

    A head with a row for a label nobody else has is such a weight.

    Args:
        known: the population.
        own: the task's base prior without it.
        same_head: whether the task's head answers what the population's does.
    """
    prior, names = known.prior(own.scale), shared_names(known, own, same_head)
    groups = ((prior.mean, own.mean), (prior.rho, own.rho))
    mean, rho = (
        flatten(
            unflatten(mine, own.shapes)
            | {name: w for name, w in unflatten(theirs, known.shapes).items() if name in names},
            own.shapes,
        )
        for theirs, mine in groups
    )
    return MeanField(mean, rho, own.shapes, own.scale)


def part_shared(known: Population, own: MeanField, same_head: bool = True) -> MeanField:
    """Return the part of a posterior that is over a population's weights."""
    names = shared_names(known, own, same_head)
    shapes = {name: shape for name, shape in own.shapes.items() if name in names}
    mean, rho = (
        flatten({n: w for n, w in unflatten(vector, own.shapes).items() if n in names}, shapes)
        for vector in (own.mean, own.rho)
    )
    return MeanField(mean, rho, shapes, own.scale)


def shared_names(known: Population, own: MeanField, same_head: bool) -> set[str]:
    """Return the weights that a posterior has in common with a population."""
    return {
        name
        for name, shape in own.shapes.items()
        if known.shapes.get(name) == shape and (same_head or not name.startswith(HEAD))
    }


def at_population(known: Population, state: AdapterState, same_head: bool = True) -> AdapterState:
    """Return a first state moved to where its population is: q and base prior are N(Θ, 1/τ)."""
    prior = base_prior(known, state.prior, same_head)
    return replace(state, posterior=prior, prior=prior)

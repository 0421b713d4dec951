"""Keep the members of an ensemble as one state: its point weights get a leading dimension.

A state of S members is a posterior too: S atoms of equal weight. Each point weight is (S, …), as a
draw is, so that predicting with all members is the same folded pass as predicting with S draws.
Every member is learned on its own, from a start and in an order of its own, and each continues
from itself in the next round.

Source: Lakshminarayanan et al. 2017 (arXiv 1612.01474), without adversarial examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from bhpeft.errors import ConfigError
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import Variant
from bhpeft.models.adapted import AdaptedModel


def member(state: AdapterState, index: int) -> AdapterState:
    """Return one member as a state of its own; the state itself where it has no others."""
    if state.spec.members == 1:
        return state
    return replace(
        state,
        point={name: value[index] for name, value in state.point.items()},
        precision={name: value[index] for name, value in state.precision.items()},
    ).with_spec(members=1)


def joined(members: Sequence[AdapterState]) -> AdapterState:
    """Return members of one layout as one state."""
    first = members[0]
    if len(members) == 1:
        return first
    return replace(
        first,
        point={name: torch.stack([m.point[name] for m in members]) for name in first.point},
        precision={
            name: torch.stack([m.precision[name] for m in members]) for name in first.precision
        },
    ).with_spec(members=len(members))


def with_members(state: AdapterState, model: AdaptedModel, variant: Variant) -> AdapterState:
    """Return a first state with as many members as the variant has, each from its own seed.

    Raises:
        ConfigError: weights are Gaussian, or factors frozen, which members would have to share.
    """
    if variant.members == 1:
        return state
    drawn = state.posterior.size or variant.dropout
    if drawn or model.sites.frozen:
        raise ConfigError(
            f"The members of {variant.name!r} cannot start apart",
            found=_drawn_words(state) if drawn else "frozen factors from one seed",
            expected="point weights under the blob parameterisation",
            remedy="Use an ensemble of point estimates, or one Gaussian.",
        )
    others = []
    for index in range(1, variant.members):
        spec = replace(state.spec, seed=state.spec.seed + index)
        source = torch.Generator().manual_seed(spec.seed)
        others.append(first_state(build_model(spec), spec, variant, (), source))
    return joined([state, *(replace(other, spec=state.spec) for other in others)])


def _drawn_words(state: AdapterState) -> str:
    return "Gaussian weights" if state.posterior.size else "inputs left out at random"

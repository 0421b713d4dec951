"""The ways to a posterior predictive: which weights run, and what becomes of their logits.

    mean        the mean weights: one pass, and no word on what was never learned
    full        the version's fixed draws of all weights, antithetic, folded into one pass
    last_layer  exact draws of the last layer and head, mean weights below: about one pass
    calibrated  the same pass, its mean mended by two numbers distilled once a round
    linear      the model made linear in all Gaussian weights: one pass, and back for each output

All give draws of class probabilities (S, N, C): `calibrated` shifts the draws of the last layer
until they average to the mended mean, so nothing above needs to know where draws come from. Another
way is one function (model, state, draws) → `Recipe`, named `package.module:function` in a stream
file.

Source: performance notes, "Posterior predictive", for the trade of cost against fidelity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from bhpeft.errors import ConfigError
from bhpeft.learning.linear import LINEAR_DRAWS, linear_logits
from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.pooling import POSITIONS
from bhpeft.posterior import MeanField, flatten, unflatten
from bhpeft.posterior.distilled import Scalars, calibrated, tilted
from bhpeft.posterior.dropout import dropped, masks, rates_of

# What goes back through the model is kept on the way there.
LINEAR_ROWS = 32

# The predictor that approximates nothing.
EXACT = "full"

# Draws of the last layer: the most that still costs about one pass (performance notes).
LAST_DRAWS = 32
# `calibrated` needs them for the ranking only.
RANKING_DRAWS = 24


@dataclass(frozen=True)
class Recipe:
    """How to predict a minibatch.

    Attributes:
        weights: by name, with a leading S where they are drawn.
        draws: S; 1 where nothing is drawn.
        rows: how many rows make a minibatch, at most.
        finish: what is done to the logits (S, B, C) of each minibatch.
        run: what makes them of a minibatch, under the weights; None for one folded pass.
    """

    weights: Mapping[str, Tensor]
    draws: int
    rows: int
    finish: Callable[[Tensor], Tensor] = lambda logits: logits
    run: Callable[[Mapping[str, Tensor]], Tensor] | None = None


Predictive = Callable[[AdaptedModel, AdapterState, int], Recipe]


def mean(model: AdaptedModel, state: AdapterState, draws: int = 0) -> Recipe:
    """Return the mean weights."""
    return Recipe(weights_of(model, state, 0), 1, model.folded_rows)


def full(model: AdaptedModel, state: AdapterState, draws: int) -> Recipe:
    """Return the version's first `draws` fixed draws; 0 of them are its mean weights.

    A point estimate has none, and an ensemble as many as members at most.
    """
    most = state.most_draws
    draws = draws if most is None else min(draws, most)
    if draws == 0:
        return mean(model, state)
    return Recipe(weights_of(model, state, draws), draws, max(1, model.folded_rows // draws))


def last_layer(model: AdaptedModel, state: AdapterState, draws: int = LAST_DRAWS) -> Recipe:
    """Return draws of the last layer's Gaussian weights and the head's, the mean below.

    A head that averages over tokens reads all of them, so there each draw runs the last layer on
    every token: exact too, for more than the price of one pass.

    Raises:
        ConfigError: nothing of the last layer or the head is Gaussian.
    """
    return _last(model, state, torch.empty(0), LAST_DRAWS)


def calibrated_mean(model: AdaptedModel, state: AdapterState, draws: int = 0) -> Recipe:
    """Return draws of the last layer that average to the mean weights' prediction, mended.

    Raises:
        ConfigError: nothing of the last layer or the head is Gaussian.
    """
    scalars = Scalars.of(state.spec.scalars)

    def finish(logits: Tensor) -> Tensor:
        return tilted(logits[1:], calibrated(logits[0], scalars))

    made = _last(model, state, torch.zeros(1), RANKING_DRAWS)
    return Recipe(made.weights, made.draws, made.rows, finish)


def linear(model: AdaptedModel, state: AdapterState, draws: int = 0) -> Recipe:
    """Return draws of the model made linear in its Gaussian weights around the mean."""
    return Recipe({}, LINEAR_DRAWS, LINEAR_ROWS, run=partial(linear_logits, model, state))


PREDICTORS: Mapping[str, Predictive] = {
    "mean": mean,
    "full": full,
    "last_layer": last_layer,
    "calibrated": calibrated_mean,
    "linear": linear,
}


def weights_of(model: AdaptedModel, state: AdapterState, draws: int) -> dict[str, Tensor]:
    """Return a state's first `draws` fixed draws by name, or for 0 its mean weights.

    An ensemble's draws are its members; for 0 it is the first of them. MC-dropout's are masks, the
    same for every input.
    """
    q = state.posterior.to(model.device)
    point = {name: value.to(model.device) for name, value in state.point.items()}
    if state.spec.members > 1:
        return {name: value[:draws] if draws else value[0] for name, value in point.items()}
    if draws == 0 or state.most_draws == 0:
        return unflatten(q.mean, q.shapes) | point
    generator = Generator().manual_seed(state.spec.seed)
    noise = q.noise(generator, draws, antithetic=draws % 2 == 0)
    rates = rates_of(model.sites.parts, state.spec.dropout)
    left_out = {
        n: z.to(model.device) for n, z in masks(model.shapes, rates, generator, draws).items()
    }
    return unflatten(q.at(noise), q.shapes) | point | dropped(point, left_out)


def drawn_last(model: AdaptedModel, state: AdapterState) -> list[str]:
    """Return the Gaussian weights of the last layer and the head."""
    top = model.depth - 1
    return [name for name in state.posterior.shapes if model.sites[name].layer in (top, None)]


def _last(model: AdaptedModel, state: AdapterState, first: Tensor, draws: int) -> Recipe:
    """Return draws of the last layer, after one at the mean for each zero of `first`."""
    q, names = state.posterior, drawn_last(model, state)
    if not names:
        raise ConfigError(
            "There is nothing to draw in the last layer",
            found=f"{len(q.shapes)} Gaussian weights, none of the last layer or the head",
            expected="a method with Gaussian weights in the last layer, or a Gaussian head",
            remedy="Ask for predictor 'full' or 'auto'.",
        )
    shapes = {name: q.shapes[name] for name in names}
    means, rhos = (unflatten(vector, q.shapes) for vector in (q.mean, q.rho))
    top = MeanField(
        flatten({name: means[name] for name in names}, shapes),
        flatten({name: rhos[name] for name in names}, shapes),
        shapes,
        q.scale,
    )
    noise = top.noise(Generator().manual_seed(state.spec.seed), draws, antithetic=True)
    noise = torch.cat([torch.zeros(len(first), top.size), noise])
    drawn = unflatten(top.at(noise), shapes)
    weights = weights_of(model, state, 0) | {n: t.to(model.device) for n, t in drawn.items()}
    rows = model.folded_rows // (1 if model.pooling in POSITIONS else len(noise))
    return Recipe(weights, len(noise), max(1, rows))

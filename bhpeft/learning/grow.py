"""Let a state know more labels than it was learned with: a row of the head for each new one.

The label's place in `spec.labels` is its row, and rows are only ever added at the end, so what was
learned of a label stays where it is. A new row is what round 0 would start it from: the base prior
where it is Gaussian, the initial value without an anchor where it is a point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bhpeft.learning.members import joined, member
from bhpeft.learning.state import AdapterState, layout
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import MeanField, flatten, unflatten


def grow(state: AdapterState, model: AdaptedModel, labels: Sequence[str]) -> AdapterState:
    """Return the state with a row for each of `labels`, which begin with its own.

    Args:
        state: as it was learned.
        model: built for all of `labels`, its head at its initial values.
        labels: the state's labels, in its order, and the new ones after them.
    """
    labels = tuple(labels)
    if labels == state.spec.labels:
        return state
    if state.spec.members > 1:
        grown = [grow(member(state, at), model, labels) for at in range(state.spec.members)]
        return joined(grown)
    rows, old = set(model.head.rows), len(state.spec.labels)
    fresh = {name: model.sites[name].tensor.detach().cpu() for name in rows}
    prior_mean, prior_rho = _parts(state.prior)
    mean, rho = _parts(state.posterior)
    for name in rows & mean.keys():
        # Every weight of a part has the same prior, so any row's is the new one's.
        more = len(labels) - old
        for own, known in ((prior_mean, prior_mean), (prior_rho, prior_rho)):
            own[name] = torch.cat([own[name], known[name][-1:].expand(more, *own[name].shape[1:])])
        mean[name] = torch.cat([mean[name], prior_mean[name][old:]])
        rho[name] = torch.cat([rho[name], prior_rho[name][old:]])
    point, precision = dict(state.point), dict(state.precision)
    for name in rows & point.keys():
        point[name] = torch.cat([point[name], fresh[name][old:]])
        precision[name] = torch.cat([precision[name], torch.zeros_like(fresh[name][old:])])
    absorbed = tuple(replace(batch, labels=batch.labels or old) for batch in state.spec.absorbed)
    return replace(
        state,
        posterior=_together(state.posterior, mean, rho),
        prior=_together(state.prior, prior_mean, prior_rho),
        point=point,
        precision=precision,
    ).with_spec(labels=labels, absorbed=absorbed)


def _parts(field: MeanField) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return unflatten(field.mean, field.shapes), unflatten(field.rho, field.shapes)


def _together(like: MeanField, mean: Mapping[str, Tensor], rho: Mapping[str, Tensor]) -> MeanField:
    shapes = layout(mean)
    return MeanField(flatten(mean, shapes), flatten(rho, shapes), shapes, like.scale)

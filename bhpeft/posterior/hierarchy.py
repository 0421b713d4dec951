"""Let tasks share what they have in common: a Gaussian over their posteriors, Θ and τ by block.

    θ_d ~ N(Θ_g, 1/τ_g)      Θ_g ~ N(0, s_Θ²)      τ_g ~ Gamma(a0, b0)          per block g

For mean-field posteriors N(m_dj, s_dj²) of D tasks over the n_g weights of a block, the ELBO is
greatest at

    Θ_j = τ Σ_d m_dj / (D τ + 1/s_Θ²)
    τ_g = (a0 + D n_g/2) / ( b0 + ½ Σ_d Σ_j [ (m_dj − Θ_j)² + s_dj² ] )

N(Θ, 1/τ) is then the base prior of every task, and where a new one starts. τ → 0 leaves the tasks
alone, τ → ∞ makes them one. Fitted from the very start τ runs away to infinity, since tasks that
have not moved look alike: it is held for the first updates, has a proper prior, and is capped.

The posteriors have to live in one gauge: (A, B) and (RA, BR⁻¹) are one function, whose A's average
is none.

Source: BoRA (arXiv 2407.15857) for the hierarchy, MAP there; the coordinate updates of its
variational form are method notes §3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from bhpeft.errors import ConfigError, StateError
from bhpeft.posterior.meanfield import SCALES, MeanField, Shapes, flatten, same_layout, unflatten


@dataclass(frozen=True)
class Hyper:
    """What is held fixed about the population.

    Attributes:
        shape, rate: a0 and b0 of τ's Gamma prior; proper, so both positive.
        mean_std: s_Θ.
        cap: the largest τ.
        held: for how many updates τ stays where it starts.
    """

    shape: float = 1.0
    rate: float = 1e-2
    mean_std: float = 1.0
    cap: float = 1e6
    held: int = 2

    def __post_init__(self) -> None:
        if min(self.shape, self.rate, self.mean_std, self.cap) <= 0 or self.held < 0:
            raise ConfigError(
                "The population's prior is not proper",
                found=str(self),
                expected="shape, rate, mean_std and cap above 0, and held not below",
            )


@dataclass(frozen=True, eq=False)
class Population:
    """What the tasks of a group have in common.

    Attributes:
        mean: Θ, (P,) float32.
        tau: τ by block.
        shapes: the layout of Θ.
        block: weight name → its block.
        updates: how many there have been.
    """

    mean: Tensor
    tau: Mapping[str, float]
    shapes: Shapes
    block: Mapping[str, str]
    updates: int = 0

    def prior(self, scale: str = "softplus") -> MeanField:
        """Return N(Θ, 1/τ), the base prior of every task and the start of a new one."""
        return MeanField.from_std(self.mean, _spread(self, -0.5), self.shapes, scale)


def population(base: MeanField, block: Callable[[str], str]) -> Population:
    """Return the population before any task was seen: the tasks' own base prior, block by block.

    τ starts where the block's mean variance is the base prior's.
    """
    blocks = {name: block(name) for name in base.shapes}
    variances = unflatten(base.std.double().square(), base.shapes)
    tau = {}
    for name in dict.fromkeys(blocks.values()):
        members = [variances[weight].reshape(-1) for weight, own in blocks.items() if own == name]
        tau[name] = 1.0 / float(torch.cat(members).mean())
    return Population(base.mean.clone(), tau, base.shapes, blocks)


def centred(known: Population, tasks: Sequence[MeanField], hyper: Hyper) -> Population:
    """Return the population with the Θ that suits its τ and the tasks as they are.

    In a joint fit after every step: Θ then moves with the tasks, where one that waited for an epoch
    would hold a tight group back at each turn.

    Args:
        known: the population so far.
        tasks: the posteriors of all its tasks; each over all its weights, or over some of them.
        hyper: what is held fixed.
    """
    tau = _spread(known, 1.0).double()
    total, seen = torch.zeros_like(tau), torch.zeros_like(tau)
    for q in tasks:
        mine = _mine(known, q)
        total += _over(known, q, q.mean, mine)
        seen += mine
    mean = tau * total / (seen * tau + hyper.mean_std**-2)
    return replace(known, mean=mean.float())


def updated(
    known: Population, tasks: Sequence[MeanField], hyper: Hyper, gauges: Sequence[str] = ()
) -> Population:
    """Return the population after one coordinate update: Θ given τ, then τ given Θ.

    Args:
        known: the population so far.
        tasks: the posteriors of all its tasks; each over all its weights, or over some of them.
        hyper: what is held fixed.
        gauges: of each posterior, where it is known.

    Raises:
        StateError: a posterior is over other weights, or in another gauge than the first.
        ConfigError: there is no task.
    """
    _check(known, tasks, gauges)
    after = replace(centred(known, tasks, hyper), updates=known.updates + 1)
    if known.updates < hyper.held:
        return after
    spread, seen = torch.zeros_like(after.mean.double()), torch.zeros_like(after.mean)
    for q in tasks:
        mine = _mine(known, q)
        mean = _over(known, q, q.mean, mine)
        variance = _over(known, q, SCALES[q.scale].std(q.rho.double()).square(), mine)
        spread += torch.where(mine, (mean - after.mean).square() + variance, 0.0)
        seen += mine
    sums, counts = _by_block(known, spread), _by_block(known, seen)
    return replace(
        after,
        tau={
            name: min(hyper.cap, (hyper.shape + counts[name] / 2) / (hyper.rate + total / 2))
            for name, total in sums.items()
        },
    )


def _check(known: Population, tasks: Sequence[MeanField], gauges: Sequence[str]) -> None:
    if not tasks:
        raise ConfigError("A population without tasks has nothing to learn from", found="none")
    for q in tasks:
        ours = {name: shape for name, shape in known.shapes.items() if name in q.shapes}
        if list(ours.items()) != list(q.shapes.items()):
            same_layout(known.prior(q.scale), q)
    check_gauges(gauges)


def check_gauges(gauges: Sequence[str]) -> None:
    """Refuse posteriors that live in different coordinates.

    Raises:
        StateError: one gauge is not the first.
    """
    strange = next((gauge for gauge in gauges if gauge != gauges[0]), None)
    if strange is not None:
        raise StateError(
            "Posteriors of different gauges cannot be averaged",
            found=f"gauge {strange[:12]}",
            expected=f"gauge {gauges[0][:12]}, as the first of the group",
            remedy="Give the streams of a group one base model, one seed and the same methods.",
        )


def _mine(known: Population, q: MeanField) -> Tensor:
    """Return which of the population's weights a posterior is over, (P,) bool."""
    if q.shapes == known.shapes:
        return torch.ones_like(known.mean, dtype=torch.bool)
    parts = [
        known.mean.new_full((prod(shape),), name in q.shapes, dtype=torch.bool)
        for name, shape in known.shapes.items()
    ]
    return torch.cat(parts)


def _over(known: Population, q: MeanField, vector: Tensor, mine: Tensor) -> Tensor:
    """Return a vector over a posterior's weights as one over the population's, 0 elsewhere."""
    whole = torch.zeros_like(known.mean, dtype=torch.float64)
    whole[mine] = vector.double()
    return whole


def _spread(known: Population, power: float) -> Tensor:
    """Return each weight's τ to a power, (P,)."""
    whole = {
        name: known.mean.new_full(shape, known.tau[known.block[name]] ** power)
        for name, shape in known.shapes.items()
    }
    return flatten(whole, known.shapes)


def _by_block(known: Population, terms: Tensor) -> dict[str, float]:
    """Return the sums of (P,) terms over the weights of each block."""
    parts = unflatten(terms, known.shapes)
    sums = dict.fromkeys(known.tau, 0.0)
    for name, part in parts.items():
        sums[known.block[name]] += float(part.sum())
    return sums

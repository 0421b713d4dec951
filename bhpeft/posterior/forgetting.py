"""Widen a posterior before it becomes a prior, and keep its σ inside bounds.

    1/s̃² = ρ/s_{t−1}² + (1−ρ)/s0²          m̃ = s̃² · (ρ·m_{t−1}/s_{t−1}² + (1−ρ)·m0/s0²)

The prior is proportional to q_{t−1}^ρ · p0^{1−ρ}, a power prior. ρ = 1 is exact posterior → prior;
ρ = 0 starts over from the base prior. Without forgetting σ falls as 1/√t over rounds until nothing
new can be learned; the floor and the ceiling are the last resort, and their shares are reported.

Sources: Ibrahim & Chen 2000 (power prior); VCL, Nguyen et al. 2018 (arXiv 1710.10628), for ρ = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bhpeft.errors import ConfigError
from bhpeft.posterior.meanfield import SCALES, MeanField, same_layout

# σ(rho(bound)) comes back from float32 within a few units of the last place (1.2e-7 relative, and
# σ = log(1 + e^rho) multiplies the rounding of rho by |rho|, about 16 for σ = 1e-7).
ROUNDING = 1e-5

# One number for all weights, or (P,), such as a share of each weight's own base prior.
Bound = float | Tensor


@dataclass(frozen=True)
class StdBounds:
    """The shares of weights, from 0 to 1, whose σ lies at the floor and at the ceiling."""

    floor: float
    ceiling: float


def power_prior(posterior: MeanField, base: MeanField, rho: float) -> MeanField:
    """Return the next round's prior, q^ρ · p0^(1−ρ) normalised, in the posterior's scale.

    Args:
        posterior: q_{t−1}, the champion's.
        base: p0, the base (population) prior.
        rho: how much of the past is kept, in [0, 1]; the very object `posterior` comes back at 1.

    Raises:
        ConfigError: rho is outside [0, 1].
        StateError: the two are over different weights.
    """
    if not 0.0 <= rho <= 1.0:
        raise ConfigError(
            "Forgetting cannot build the prior",
            found=f"ρ = {rho}",
            expected="ρ between 0 (start over) and 1 (forget nothing)",
        )
    same_layout(posterior, base)
    # The two ends are exact: a round without forgetting must not move a single bit.
    if rho == 1.0:
        return posterior
    if rho == 0.0 and posterior.scale == base.scale:
        return base
    old = rho * _std64(posterior) ** -2
    new = (1.0 - rho) * _std64(base) ** -2
    variance = (old + new).reciprocal()
    mean = variance * (old * posterior.mean.double() + new * base.mean.double())
    return MeanField(
        mean.float(),
        SCALES[posterior.scale].rho(variance.sqrt()).float(),
        posterior.shapes,
        posterior.scale,
    )


def clamp_std(q: MeanField, floor: Bound, ceiling: Bound) -> MeanField:
    """Return `q` with every σ inside [floor, ceiling]; weights already inside keep their bits.

    Raises:
        ConfigError: the bounds are not 0 < floor ≤ ceiling.
    """
    lowest, highest = _bounds(q, floor, ceiling)
    std, to_rho = q.std, SCALES[q.scale].rho
    rho = torch.where(std < lowest, to_rho(lowest), q.rho)
    return replace(q, rho=torch.where(std > highest, to_rho(highest), rho))


def std_at_bounds(q: MeanField, floor: Bound, ceiling: Bound) -> StdBounds:
    """Return the shares of weights whose σ is at (or beyond) the floor and the ceiling.

    Raises:
        ConfigError: the bounds are not 0 < floor ≤ ceiling.
    """
    lowest, highest = _bounds(q, floor, ceiling)
    if q.size == 0:
        return StdBounds(0.0, 0.0)
    std = q.std
    return StdBounds(
        floor=float((std <= lowest * (1 + ROUNDING)).double().mean()),
        ceiling=float((std >= highest * (1 - ROUNDING)).double().mean()),
    )


def _std64(q: MeanField) -> Tensor:
    return SCALES[q.scale].std(q.rho.double())


def _bounds(q: MeanField, floor: Bound, ceiling: Bound) -> tuple[Tensor, Tensor]:
    lowest, highest = (torch.as_tensor(b, device=q.rho.device).float() for b in (floor, ceiling))
    if not bool(((lowest > 0) & (lowest <= highest)).all()):
        raise ConfigError(
            "The bounds of the standard deviations make no interval",
            found=f"floor {floor}, ceiling {ceiling}",
            expected="0 < floor ≤ ceiling",
        )
    return lowest, highest

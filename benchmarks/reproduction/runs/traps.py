"""Fall into the traps on purpose, on models whose exact posterior is known; measure how deep.

N rows of curvature h (Fisher information of one row) and target t have NLL ½ h (w − t)² a row, so
they turn N(m̃, s̃²) into the Gaussian of precision 1/s̃² + N·h/λ. The descent is the library's own
gradient of the ELBO, whose noise ε = ±1 integrates a quadratic exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from math import cos, log, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from bhpeft.learning.movement import RHO_BETAS
from bhpeft.learning.plan import Plan
from bhpeft.posterior import MeanField, elbo_gradient, kl_scale, power_prior
from bhpeft.tasks.metrics import ece_null

WEIGHTS = 3
SHAPES = {"w": (WEIGHTS,)}
TWO_POINTS = torch.tensor([[1.0], [-1.0]]).expand(-1, WEIGHTS)
STEPS = 600
# One LoRA factor as large as MiniLM's, at the σ0 of its prior and the spread it starts with.
RANK, WIDTH = 8, 384


def run(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what each trap of `TRAPS` measures, by its name."""
    return {name: trap(params["seed"]) for name, trap in TRAPS.items()}


def learn(
    prior: MeanField,
    rows: int,
    curvature: float,
    target: float,
    scale: float | None = None,
    betas: tuple[float, float] = (0.9, 0.9),
    steps: int = STEPS,
    rate: Callable[[int], float] | None = None,
) -> MeanField:
    """Return the posterior of one round from q = prior.

    Args:
        prior: of the round.
        rows: N.
        curvature: h.
        target: t.
        scale: of the KL; λ/N with λ = 1 if left out.
        betas: Adam's.
        steps: of it.
        rate: its rate at each step; a cosine from 0.05 if left out.
    """
    q = MeanField(prior.mean.clone(), prior.rho.clone(), prior.shapes, prior.scale)
    optimiser = torch.optim.Adam([q.mean, q.rho], betas=betas)
    rate = rate or (lambda step: 0.025 * (1 + cos(pi * step / steps)))
    noise = TWO_POINTS[:, : q.size]
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate(step)
        pull = curvature * (q.at(noise) - target) / len(noise)
        found = elbo_gradient(
            q, prior, noise, pull, kl_scale(1.0, rows) if scale is None else scale
        )
        q.mean.grad, q.rho.grad = found.mean, found.rho
        optimiser.step()
    return q


def kl_scale_trap(seed: int) -> dict[str, float]:
    """σ after 100 rows, over the exact one: with the KL's mean over weights, and with ours."""
    exact = float((4 + 100) ** -0.5)
    mean_over_weights = learn(_base(), 100, 1.0, 0.0, scale=1 / (100 * WEIGHTS))
    return {
        "mean over weights": float(mean_over_weights.std.mean()) / exact,
        "λ/N on the sum": float(learn(_base(), 100, 1.0, 0.0).std.mean()) / exact,
    }


def growing_weight(seed: int) -> dict[str, float]:
    """The pull of 1,270 past rows over that of 1,280 new ones: λ ∝ N, and λ constant."""
    return {"λ grows with N": _pull(grows=True), "λ constant": _pull(grows=False)}


def twice(seed: int) -> dict[str, float]:
    """σ after learning a batch twice over σ after learning it once."""
    once = learn(_base(), 4000, 1.0, 0.4)
    again = learn(once, 4000, 1.0, 0.4)
    return {"learned twice": float((again.std / once.std).mean())}


def gauge(seed: int) -> dict[str, float]:
    """Nats of KL between a posterior over A and the same function in another gauge."""
    source = Generator().manual_seed(seed)
    mean = torch.randn(RANK, WIDTH, generator=source) * 0.1
    q = _field(mean, 0.05)
    turn, _ = torch.linalg.qr(torch.randn(RANK, RANK, generator=source))
    return {
        "A scaled by 1.5": float(_field(1.5 * mean, 0.075).kl(q)),
        "A rotated": float(_field(turn @ mean, 0.05).kl(q)),
        "the same gauge": float(_field(mean, 0.05).kl(q)),
    }


def collapse(seed: int) -> dict[str, float]:
    """σ after 8 rounds of 100 rows over σ after one: ρ = 1, and ρ = 0.5."""
    last = {rho: _rounds(rho, 8) / _rounds(rho, 1) for rho in (1.0, 0.5)}
    return {"ρ = 1": last[1.0], "ρ = 0.5": last[0.5]}


def correlated(seed: int) -> dict[str, float]:
    """Mean field's σ over the exact marginal's, two weights of correlation 0.69."""
    precision = torch.linalg.inv(torch.tensor([[1.0, 0.69], [0.69, 1.0]]))
    shapes = {"w": (2,)}
    prior = MeanField.from_std(torch.zeros(2), torch.full((2,), 100.0), shapes)
    q = MeanField.from_std(torch.zeros(2), torch.full((2,), 0.3), shapes)
    optimiser = torch.optim.Adam([q.rho], lr=0.05)
    source, tail = Generator().manual_seed(seed), []
    for step in range(1000):
        noise = q.noise(source, 64, antithetic=True)
        pull = q.at(noise) @ precision / len(noise)
        q.rho.grad = elbo_gradient(q, prior, noise, pull, kl_scale(1.0, 1)).rho
        optimiser.step()
        if step >= 500:
            tail.append(q.std.clone())
    return {"mean field": float(torch.stack(tail).mean())}


def arrival(seed: int) -> dict[str, float]:
    """σ over its optimum after just the steps its way needs: Adam's usual β2, and the library's.

    From the first prior's σ = 0.1 down, 4,000 rows, under the rates of the library's plan.
    """
    prior, plan, rows = _base(0.1), Plan(), 4000
    exact = (0.1**-2 + rows) ** -0.5
    steps = next(n for n in count(1) if plan.rho_travel(n) >= log(0.1 / exact) + 1)

    def rate(step: int) -> float:
        return plan.rho_learning_rate * plan.rate(step, steps)

    ways = {"β2 = 0.999": (0.9, 0.999), "β2 of the library": RHO_BETAS}
    return {
        name: float(learn(prior, rows, 1.0, 0.0, betas=betas, steps=steps, rate=rate).std.mean())
        / exact
        for name, betas in ways.items()
    }


def calibrated(seed: int) -> dict[str, float]:
    """The 95 % range of ECE that a perfectly calibrated model shows on 500 rows."""
    rng = np.random.default_rng(seed)
    top = rng.uniform(0.5, 1.0, 500)
    low, high = ece_null(np.column_stack([top, 1 - top]), rng=rng)
    return {"lowest": low, "highest": high}


TRAPS: dict[str, Callable[[int], dict[str, float]]] = {
    "KL scale": kl_scale_trap,
    "λ that grows": growing_weight,
    "counted twice": twice,
    "gauge": gauge,
    "σ collapses": collapse,
    "mean field": correlated,
    "σ cannot arrive": arrival,
    "noise of ECE": calibrated,
}


def _base(std: float = 0.5) -> MeanField:
    return MeanField.from_std(torch.zeros(WEIGHTS), torch.full((WEIGHTS,), std), SHAPES)


def _field(mean: Tensor, std: float) -> MeanField:
    shapes = {"a": tuple(mean.shape)}
    return MeanField.from_std(mean.reshape(-1), torch.full((mean.numel(),), std), shapes)


def _pull(grows: bool) -> float:
    q = _base()
    for round_ in range(8):
        size = 10 * 2**round_
        target = 1.0 if round_ == 7 else 0.0
        weight = size / 10 if grows else 1.0
        q = learn(q, size, 1.0, target, scale=kl_scale(weight, size), steps=300)
    return float(1 / q.mean.mean() - 1)


def _rounds(rho: float, rounds: int) -> float:
    q = _base()
    for _ in range(rounds):
        q = learn(power_prior(q, _base(), rho), 100, 1.0, 0.0, steps=200)
    return float(q.std.mean())

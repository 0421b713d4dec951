"""R8: the traps of the method, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.reproduction.cells import Cell
from benchmarks.reproduction.claim import Claim, Criterion, Find, Judged, Table
from benchmarks.reproduction.statistics import Estimate, over_seeds

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Promise:
    """What a trap is known to measure.

    Attributes:
        trap, way: where the figure is in the run's result.
        told: what it is.
        low, high: between which it must be.
    """

    trap: str
    way: str
    told: str
    low: float
    high: float


PROMISES: Sequence[Promise] = (
    Promise("KL scale", "λ/N on the sum", "σ ÷ exact, λ/N on the summed KL", 0.99, 1.01),
    Promise("KL scale", "mean over weights", "σ ÷ exact, KL's mean over 3 weights", 0.0, 0.99),
    Promise("λ that grows", "λ grows with N", "pull past ÷ new rows, λ ∝ N", 7.2, 7.6),
    Promise("λ that grows", "λ constant", "pull past ÷ new rows, λ constant", 0.97, 1.03),
    Promise("counted twice", "learned twice", "σ learned twice ÷ once", 0.70, 0.72),
    Promise("gauge", "A scaled by 1.5", "KL of the same map, A scaled by 1.5, nats", 1000, 1e6),
    Promise("gauge", "A rotated", "KL of the same map, A rotated, nats", 1000, 1e6),
    Promise("gauge", "the same gauge", "KL in one gauge, nats", 0.0, 1e-3),
    Promise("σ collapses", "ρ = 1", "σ after 8 rounds ÷ after 1, ρ = 1 (1/√8 = 0.354)", 0.34, 0.37),
    Promise("σ collapses", "ρ = 0.5", "σ after 8 rounds ÷ after 1, ρ = 0.5", 0.6, 0.8),
    Promise("mean field", "mean field", "mean-field σ ÷ marginal, correlation 0.69", 0.70, 0.74),
    Promise("σ cannot arrive", "β2 = 0.999", "σ ÷ optimum, Adam's β2 = 0.999", 1.1, 10.0),
    Promise("σ cannot arrive", "β2 of the library", "σ ÷ optimum, the library's β2", 0.9, 1.1),
    Promise("noise of ECE", "highest", "most ECE of a calibrated model, 500 rows", 0.03, 0.07),
)


def cells(quick: bool) -> list[Cell]:
    """Return one cell a seed."""
    return [Cell("traps", {"seed": seed}) for seed in (SEEDS[:1] if quick else SEEDS)]


def judge(quick: bool, find: Find) -> Judged:
    """Return each promise and what was measured."""
    found = {seed: result for seed in SEEDS if (result := find(Cell("traps", {"seed": seed})))}
    if not found:
        return Judged()
    rows, kept = [], 0
    for one in PROMISES:
        value = over_seeds([result[one.trap][one.way] for result in found.values()])
        inside = one.low <= value.value <= one.high
        kept += inside
        promised = f"{one.low:g} to {one.high:g}" if one.high < 1e6 else f"over {one.low:g}"
        rows.append([one.trap, one.told, f"{value.value:.4g}", promised, "yes" if inside else "no"])
    share = Estimate(kept, kept, kept)
    criteria = [Criterion(f"figures as promised, of {len(PROMISES)}", share, len(PROMISES))]
    columns = ["trap", "figure", "measured", "promised", "kept"]
    table = Table("Traps on models whose posterior is known", columns, rows)
    return Judged(criteria, sorted(found), [table])


R8 = Claim(
    name="R8",
    title="The traps are as deep as the method says",
    claim="The method notes' table of traps: each changes a number that a conjugate model gives.",
    target="Every figure in its range.",
    about="Three weights with a Gaussian prior of σ0 = 0.5 and a quadratic likelihood, through the "
    "library's own ELBO gradient and power prior.",
    cells=cells,
    judge=judge,
)

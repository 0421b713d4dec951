"""Measure how close each predictor comes to the posterior predictive, and choose one.

The gold is the average over a hundred and more independent draws of all weights. What everyone does
is average ten: so a predictor's distance from the gold is told in units of theirs.

    KL ratio     KL(gold ‖ predictor) over that of ten draws
    rank gap     rank correlation of its mutual information with the gold's, minus that of ten draws
    cost         its time over that of one pass with the mean weights

The gold's draws come in tens: each ten is one such average, compared with the gold of all others,
so the yardstick costs nothing more, and no draw is compared with itself.

Source: performance notes, "every release checked against a ≥ 100-draw gold".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor

from bhpeft.errors import ConfigError
from bhpeft.learning.linear import covariance
from bhpeft.learning.predict import Predictor
from bhpeft.learning.predictors import (
    EXACT,
    LINEAR_ROWS,
    PREDICTORS,
    Recipe,
    drawn_last,
)
from bhpeft.learning.state import AdapterState
from bhpeft.models.measured import take_turns
from bhpeft.plugins import resolve
from bhpeft.posterior import unflatten
from bhpeft.posterior.distilled import distil
from bhpeft.posterior.predictive import mean_probability, mutual_information
from bhpeft.tasks.categorical import FIGURES

AUTO = "auto"
# What everyone does: the unit of distance from the gold.
NAIVE = 10
# Sampled passes the scalars are distilled from, on so many rows without their labels. All rows have
# the same draws, so it is the draws that say how well the pooled moments are known.
DISTIL_DRAWS, DISTIL_ROWS = 16, 32
# More classes are too many passes back for `linear` to be worth trying.
LINEAR_CLASSES = 5

# `auto` takes the cheapest that is no further from the gold than ten draws are, and ranks rows as
# well up to what the ranks of some thirty rows leave open; a distance below a thousandth of a nat
# is none.
KL_RATIO, RANK_GAP, NO_KL = 1.0, 0.05, 1e-3
# Interleaved passes of each; the fastest counts, since other processes only ever add time. One that
# takes so many seconds has averaged over them.
TIMED_PASSES, TIMED_ROWS, TIMED_SECONDS = 3, 8, 0.1


@dataclass(frozen=True)
class Fidelity:
    """How close a predictor comes to the gold, on rows nobody learned from.

    Attributes:
        kl: mean KL(gold ‖ predictor) in nats.
        kl_ratio: that over the mean of ten independent draws'.
        rank_correlation: Spearman's, of mutual information with the gold's.
        rank_gap: that minus the mean of ten independent draws'.
        cost: time over that of a pass with the mean weights.
    """

    kl: float
    kl_ratio: float
    rank_correlation: float
    rank_gap: float
    cost: float

    @property
    def enough(self) -> bool:
        """Say whether it is as faithful as ten draws of all weights."""
        close = self.kl <= NO_KL or self.kl_ratio <= KL_RATIO
        return close and self.rank_gap >= -RANK_GAP

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


@dataclass(frozen=True)
class Gold:
    """Probabilities of many independent draws, (S, N, C), S a multiple of ten."""

    probs: Tensor

    @property
    def tens(self) -> list[tuple[Tensor, Tensor]]:
        """Return (ten draws, all others) for every ten."""
        parts = list(torch.split(self.probs, NAIVE))
        return [
            (part, torch.cat([other for j, other in enumerate(parts) if j != i]))
            for i, part in enumerate(parts)
        ]


def offered(version: Predictor) -> list[str]:
    """Return the predictors that a version could use and that say what was never learned.

    None for a point estimate, nor where the stream file asks for no draws; and none where what is
    predicted is no probability of classes, which is what a KL and the scalars are of.
    """
    state = version.state
    if state.posterior.size == 0 or state.spec.draws == 0 or version.task.figures is not FIGURES:
        return []
    last = ["last_layer", "calibrated"] if drawn_last(version.model, state) else []
    linear = ["linear"] if version.model.labels <= LINEAR_CLASSES else []
    return [*last, *linear, EXACT]


def prepared(version: Predictor, texts: Sequence[str]) -> Predictor:
    """Return the version with the scalars of its posterior, distilled on unlabelled texts."""
    texts = list(texts)[:DISTIL_ROWS]
    if not texts:
        return version
    drawn = version.logits(texts, version.recipe(DISTIL_DRAWS))
    linear = None
    if version.model.labels <= LINEAR_CLASSES:
        parts = version.minibatches(texts, LINEAR_ROWS)
        covered = (covariance(version.model, version.state, part) for _, part in parts)
        linear = torch.cat(list(covered)) / version.state.spec.temperature**2
    scalars = distil(version.logits(texts, version.recipe(0))[0], drawn, linear)
    return replace(version, state=version.state.with_spec(scalars=scalars.as_dict()))


def gold(version: Predictor, texts: Sequence[str], draws: int) -> Gold:
    """Return what `draws` draws say, rounded up to whole tens; none is the version's own."""
    q, device = version.state.posterior, version.model.device
    source = Generator().manual_seed(version.state.spec.seed + 1)
    point = version.recipe(0).weights
    said = []
    for _ in range(math.ceil(draws / NAIVE)):
        weights = unflatten(q.at(q.noise(source, NAIVE)).to(device), q.shapes)
        recipe = Recipe({**point, **weights}, NAIVE, max(1, version.model.folded_rows // NAIVE))
        said.append(torch.from_numpy(version.task.draws(version.logits(texts, recipe))))
    return Gold(torch.cat(said))


def measured(
    version: Predictor,
    names: Sequence[str],
    texts: Sequence[str],
    draws: int,
    keep: str | None = None,
) -> dict[str, Fidelity]:
    """Return the fidelity of each predictor on these texts.

    Args:
        version: with its scalars.
        names: of predictors.
        texts: unseen rows, two at least.
        draws: of the gold, a hundred or more.
        keep: the one that stays if it is faithful enough; then no other is measured.

    Raises:
        ConfigError: the gold would be no gold, or there is nothing to rank.
    """
    if draws < 2 * NAIVE or len(texts) < 2:
        raise ConfigError(
            "There is too little to measure a predictor's fidelity with",
            found=f"{draws} draws on {len(texts)} rows",
            expected=f"{2 * NAIVE} draws and 2 rows at least",
            remedy="Raise prediction.fidelity_draws, or set prediction.predictor to a name.",
        )
    reference = gold(version, texts, draws)
    naive_kl = _mean([_kl(rest, ten) for ten, rest in reference.tens])
    naive_rank = _mean([_rank(rest, ten) for ten, rest in reference.tens])
    found: dict[str, Fidelity] = {}
    for name in sorted(names, key=lambda name: name != keep):
        probs = torch.from_numpy(_as(version, name).probabilities(texts))
        kl, rank = _kl(reference.probs, probs), _rank(reference.probs, probs)
        ratio = kl / max(naive_kl, 1e-12)
        found[name] = Fidelity(kl, ratio, rank, rank - naive_rank, math.nan)
        if name == keep and found[name].enough:
            break
    costs = _costs(version, list(found), texts[:TIMED_ROWS])
    return {name: replace(one, cost=costs[name]) for name, one in found.items()}


def chosen(found: Mapping[str, Fidelity], keep: str | None = None) -> str:
    """Return the cheapest predictor that is faithful enough, else all draws.

    Args:
        found: what was measured.
        keep: what `kept` returned.
    """
    enough = {name: one for name, one in found.items() if one.enough}
    if keep in enough:
        return str(keep)
    return min(enough, key=lambda name: enough[name].cost) if enough else EXACT


def kept(champion: AdapterState | None, names: Sequence[str]) -> str | None:
    """Return the champion's predictor, which stays as long as it is faithful enough.

    A service should not change its way of answering over a few milliseconds. All draws are dear:
    they give way to the first that is as faithful as ten of them.
    """
    name = None if champion is None else champion.spec.predictor
    return name if name in names and name != EXACT else None


def _as(version: Predictor, name: str) -> Predictor:
    state: AdapterState = version.state.with_spec(predictor=name)
    return Predictor(version.model, state)


def _costs(version: Predictor, names: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    ways = {name: resolve("predictor", name, PREDICTORS) for name in ("mean", *names)}
    recipes = {
        name: way(version.model, version.state, version.state.spec.draws)
        for name, way in ways.items()
    }
    passes = {name: partial(version.logits, texts, recipe) for name, recipe in recipes.items()}
    best = dict.fromkeys(passes, math.inf)
    take_turns(passes, best)
    for _ in range(TIMED_PASSES - 1):
        short = {name: run for name, run in passes.items() if best[name] <= TIMED_SECONDS}
        take_turns(short, best)
    return {name: best[name] / best["mean"] for name in names}


def _kl(gold: Tensor, probs: Tensor) -> float:
    """Return the mean over rows of KL(mean of gold ‖ mean of probs) in nats."""
    p, q = mean_probability(gold), mean_probability(probs).clamp_min(1e-300)
    return float((torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1).mean())


def _rank(gold: Tensor, probs: Tensor) -> float:
    """Return Spearman's correlation of the mutual information of rows; 0 where one is constant."""
    ranks = []
    for one in (mutual_information(gold), mutual_information(probs)):
        # The mean rank of ties.
        below = (one[:, None] > one).double().sum(1)
        ranks.append(below + 0.5 * (one[:, None] == one).double().sum(1))
    a, b = (rank - rank.mean() for rank in ranks)
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if size else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

"""State what a round has to learn, and how much of the KL each of its steps carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from bhpeft import tasks
from bhpeft.learning.plan import Plan
from bhpeft.learning.ranks import ALONE, Ranks
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import Variant
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.together import Table, TablesTogether
from bhpeft.posterior import MeanField
from bhpeft.posterior.elbo import blob_kl_weights, warmup

if TYPE_CHECKING:
    from bhpeft.learning.projection import Projection


@dataclass(frozen=True)
class Lesson:
    """What one round has to learn: a model, a prior and rows.

    Attributes:
        model: the frozen base with its methods attached.
        start: where q and the point weights start; q is the prior itself after round 0.
        prior: this round's prior over the Gaussian weights, in the layout of `start`.
        rows: the batch's training rows, tokenised.
        plan: epochs and learning rates.
        variant: what is Gaussian and how the KL enters.
        first: whether this is round 0, which warms the KL up and anchors nothing.
        forgetting: ρ, by which the anchor of the point weights ages too.
        predicted: what is predicted, which says what the NLL of a row is.
        ranks: which of the processes that learn it together this one is.
        projection: the network that makes the model's prefix of the weights that are learned.
    """

    model: AdaptedModel
    start: AdapterState
    prior: MeanField
    rows: Table | TablesTogether
    plan: Plan
    variant: Variant
    first: bool
    forgetting: float = 1.0
    predicted: tasks.Task = field(default_factory=tasks.Classification)
    ranks: Ranks = ALONE
    projection: Projection | None = None

    @property
    def minibatch(self) -> int:
        """Return how many rows a minibatch has."""
        return self.plan.minibatch(len(self.rows))

    @property
    def steps_an_epoch(self) -> int:
        """Return the number of the optimiser's steps in one pass over the rows."""
        return -(-self.rows.steps(self.minibatch) // self.plan.accumulate)

    def steps(self, epochs: int) -> int:
        """Return the number of steps in so many passes, as far as the plan allows them."""
        steps = epochs * self.steps_an_epoch
        return min(steps, self.plan.max_steps) if self.plan.max_steps else steps


def rate_of_means(lesson: Lesson, steps: int) -> float:
    """Return the learning rate of means and points in a round of so many steps."""
    longer = lesson.variant.longer_steps and lesson.start.posterior.size > 0
    return lesson.plan.rate_of_means(steps, longer)


def kl_share(lesson: Lesson, step: int, steps: int) -> float:
    """Return a step's share of the KL: 1 in all over an epoch, less while round 0 warms up."""
    minibatches = lesson.steps_an_epoch
    share = _epoch_shares(lesson.variant.kl_schedule, minibatches)[step % minibatches]
    return share * (warmup(step, steps, lesson.plan.kl_warmup) if lesson.first else 1.0)


def flow_time(lesson: Lesson, step: int, steps: int, rate: float) -> float:
    """Return how long the KL acts in a step where SGD steps it apart: η·λ·π at the rates' factor.

    As published, SGD sees π·KL with Σ π = 1 over an epoch, *not* divided by the rows: AdamW on the
    NLL does not see the size of its gradient, so a factor 1/N here would only make σ arrive N/M
    times later than in the paper.
    """
    speed = lesson.plan.kl_learning_rate * rate
    return speed * lesson.variant.kl_weight * kl_share(lesson, step, steps)


@lru_cache(maxsize=16)
def _epoch_shares(schedule: str, minibatches: int) -> list[float]:
    if schedule == "increasing":
        return blob_kl_weights(minibatches)
    return [1.0 / minibatches] * minibatches

"""Say how long and how fast a round learns."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Annotated, Literal

from pydantic import Field

PointWeights = Literal["anchored", "frozen", "free"]
# What a stream file may say; checked where the file is read.
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]

# Nats a row by which an epoch's loss has to fall to count as falling: a tenth of what the gate on
# the NLL lets a candidate be worse by.
PLATEAU = 1e-3

# The learning rate of a round whose plan names none, the steps it takes for its means to get far
# enough, and the fewest that are made longer. 40 steps at 1e-2 were surely better than at 2e-3, by
# 0.11 nats, 96 at 4.2e-3 by 0.05 (A8 of docs/reproduction.md); 190 at 3e-3 forgot more of the last
# batch, and a chain of rounds of six steps learned less at 8e-3 than at 4e-3 (docs/method.md).
RATE, FULL_STEPS, FEWEST_STEPS = 2e-3, 200, 40

# Rows of a minibatch where the plan names none, and in a round that it leaves fewer than so many
# steps of them: in as many passes half as many learned as much, and surely more where those made
# few steps. In as many steps, from half of the passes, they were calibrated less well, so a round
# that can be lengthened keeps the usual ones (A9 of docs/reproduction.md).
ROWS, FEWER_ROWS, SHORT = 16, 8, 100


@dataclass(frozen=True)
class Plan:
    """The optimiser's schedule of one round.

    Attributes:
        epochs: passes over the batch's training rows.
        max_epochs: how far a round may be lengthened so that σ can reach its optimum; beyond it
            the round fails with `RhoTravelTooShort` rather than report its start as a posterior.
        max_steps: the optimiser takes no more than these; 0 is no limit. A batch with more rows
            than they pass over in `epochs` is learned from a random sample of it.
        batch_size: rows of a minibatch; 0 is `ROWS`, and fewer in a short round (`minibatch`).
        accumulate: minibatches whose gradients are averaged into one step, for larger steps than
            fit into memory.
        patience: the round ends early when the loss over an epoch (−ELBO/N) has not fallen by
            `PLATEAU` for so many epochs; one last epoch brings the learning rates down to zero.
            Never before σ can have arrived. 0 trains all epochs.
        learning_rate: of the means and the point weights; 0 is `RATE`, and more in a short round of
            a variant that takes longer steps there (`rate_of_means`).
        rho_learning_rate: of rho; larger, since rho ≈ log σ has to travel several units while the
            means move by fractions of one. A small one makes first rounds longer, and better: on
            780 sentences (one seed) 0.02 took six epochs to NLL 0.44, 0.05 three to 0.51.
        kl_learning_rate: of the SGD step on the KL, for variants that step it apart; the KL counts
            once an epoch in it, so that σ's way to the prior is a matter of epochs.
        warmup: share of all steps over which the learning rates rise from zero; they then fall
            linearly back to zero.
        kl_warmup: share of round 0's steps over which the KL is phased in, since with B = 0 the
            likelihood is silent and the KL alone would inflate σ.
        point_weights: after round 0 the point weights are "anchored" by the Fisher information of
            what they were learned on, "frozen", or "free".
        max_seconds: the round fails by name when training takes longer; 0 is no limit.
        save_every: seconds after which a running training is saved, to be taken up by a later
            attempt of the same round (`bhpeft.learning.checkpoint`).
        checkpointing: recompute activations in the backward pass: less memory, a third more time.
    """

    epochs: Count = 3
    max_epochs: Count = 60
    max_steps: Whole = 0
    batch_size: Whole = 0
    accumulate: Count = 1
    patience: Whole = 0
    learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = 0.0
    rho_learning_rate: Rate = 2e-2
    kl_learning_rate: Rate = 2e-2
    warmup: Share = 0.1
    kl_warmup: Share = 0.1
    point_weights: PointWeights = "anchored"
    max_seconds: Annotated[float, Field(ge=0, strict=True)] = 0.0
    save_every: Rate = 600.0
    checkpointing: bool = False

    @property
    def most_rows(self) -> int | None:
        """Return how many rows `max_steps` pass over in `epochs`; None without a limit."""
        if not self.max_steps:
            return None
        rows = self.batch_size or ROWS
        return max(1, self.max_steps // self.epochs) * self.accumulate * rows

    def minibatch(self, rows: int) -> int:
        """Return how many rows a minibatch has in a round of so many.

        A plan that bounds the steps, or makes them of several minibatches, has decided itself how
        many rows it wants in each.
        """
        if self.batch_size:
            return self.batch_size
        told = self.max_steps or self.accumulate > 1
        short = max(self.epochs, self.max_epochs) * ceil(rows / ROWS) < SHORT
        return FEWER_ROWS if short and not told else ROWS

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rates' factor at `step` (from 0) of `steps`: up, then down."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    def rate_of_means(self, steps: int, longer: bool) -> float:
        """Return the learning rate of the means and the point weights.

        Args:
            steps: how many there are to be.
            longer: whether from `FEWEST_STEPS` to `FULL_STEPS` are each to be longer, so that the
                means can go as far.
        """
        if self.learning_rate:
            return self.learning_rate
        longer = longer and FEWEST_STEPS <= steps < FULL_STEPS
        return RATE * FULL_STEPS / steps if longer else RATE

    def rho_travel(self, steps: int) -> float:
        """Return how far rho can move in `steps`: Adam moves it by at most its rate a step."""
        return self.rho_learning_rate * sum(self.rate(step, steps) for step in range(steps))

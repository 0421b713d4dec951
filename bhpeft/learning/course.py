"""Decide how many epochs a round takes: lengthened until σ can arrive, ended on a plateau.

After one epoch the curvature is known, and with it how far σ has to go (`bhpeft.learning.travel`):
the round is lengthened until its learning rates add up to that. With `plan.patience` it may end
before: once the loss over an epoch has stopped falling, and if what rho has travelled and will
travel in a last epoch is enough. Over that last epoch the rates
fall to zero from where they are, since a mean taken while they are large is a noisy one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bhpeft.learning.descent import Descent, diverged
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import PLATEAU
from bhpeft.learning.travel import epochs_needed, travel_left


@dataclass
class Course:
    """How far a round goes; iterating over it gives its epochs, counted from 1.

    Attributes:
        lesson: what is learned.
        epochs: how many there are to be, as far as is known.
        travel_met: whether rho was found to have the way it needs; None where there is no rho.
        settled: whether the loss stopped falling before the end.
        begun: epochs that an interrupted attempt has left behind.
    """

    lesson: Lesson
    epochs: int
    travel_met: bool | None = None
    settled: bool = False
    begun: int = 0
    _needed: float = 0.0
    _least: float = math.inf
    _waited: int = 0

    @property
    def steps(self) -> int:
        """Return how many steps there are to be."""
        return self.lesson.steps(self.epochs)

    def __iter__(self) -> Iterator[int]:
        epoch = self.begun
        while epoch < self.epochs and epoch * self.lesson.steps_an_epoch < self.steps:
            epoch += 1
            yield epoch

    def judge(self, epoch: int, descent: Descent) -> None:
        """Lengthen or shorten the round after an epoch.

        Raises:
            Diverged: the curvature is not finite.
            RhoTravelTooShort: σ cannot reach its optimum within `plan.max_epochs`.
        """
        if epoch == 1:
            self._lengthen(float(descent.gaussian_fisher.one_row.mean()))
        if self.lesson.plan.patience and not self.settled:
            self._wait(descent.epoch_loss())
            if self._waited >= self.lesson.plan.patience and epoch + 1 < self.epochs:
                self._end_after(epoch + 1, descent)

    def _lengthen(self, curvature: float) -> None:
        if self.lesson.start.posterior.size == 0 or self.lesson.variant.estimator == "mean":
            return
        if not math.isfinite(curvature):
            raise diverged("in its first epoch", f"a mean squared gradient of {curvature}")
        self.epochs, self._needed = epochs_needed(self.lesson, curvature)
        self.travel_met = True

    def _wait(self, loss: float) -> None:
        if loss < self._least - PLATEAU:
            self._least, self._waited = loss, 0
        else:
            self._waited += 1

    def _end_after(self, epochs: int, descent: Descent) -> None:
        """End after so many epochs in all, if rho can have arrived by then."""
        left = travel_left(self.lesson, self.lesson.plan.rate(descent.steps, self.steps))
        if descent.travelled + left >= self._needed:
            descent.end_by(self.steps)
            self.epochs, self.settled = epochs, True

"""Look at a round's rows without moving: what curvature they give the weights as they are."""

from __future__ import annotations

from torch import Generator, Tensor

from bhpeft.learning.descent import Descent
from bhpeft.learning.lesson import Lesson
from bhpeft.models.transfer import on_device


def curvature(lesson: Lesson, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return h, the diagonal Fisher information of one row, of Gaussian and of point weights.

    One pass over the rows, forward and backward, under draws of the posterior the task starts at.

    Args:
        lesson: the round; nothing of it changes.
        generator: of the draws and the order of rows.

    Returns:
        (P,) and (K,), in the layouts of the start's posterior and points, on the CPU.
    """
    descent = Descent.begin(lesson, generator)
    minibatches = lesson.rows.minibatches(lesson.minibatch, generator)
    for minibatch in on_device(minibatches, lesson.model.device):
        descent.gather(minibatch)
    return descent.gaussian_fisher.one_row.cpu(), descent.point_fisher.one_row.cpu()

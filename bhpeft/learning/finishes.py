"""Finish a trained state: what a variant does after the descent, on rows it was not trained on.

    temperature   logits are divided by the T that makes the selection rows' NLL least
    laplace       σ of the Gaussian head from the curvature at its mode, last-layer Laplace
    training_free one σ for all noise of a LoRA, by the selection rows (`training_free.py`)

Sources: Guo et al. 2017 (arXiv 1706.04599) for temperature scaling; Daxberger et al. 2021 (arXiv
2106.14806) for Laplace on the last layer, here with the diagonal of the exact GGN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bhpeft.errors import ConfigError
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.training_free import training_free
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import SCALES, unflatten

# Below or above, a temperature says that something else is wrong.
COLDEST, HOTTEST = 0.05, 20.0
# Each halves the bracket's logarithm by 0.618: to 1e-6 of it.
SEARCHES = 30


@dataclass(frozen=True)
class Selection:
    """Rows of a batch that neither training nor gates look at.

    Attributes:
        texts: what is read.
        targets: the answers, as the task's numbers, (N,).
        options: how many labels each row may choose from, (N,); None or 0 is all.
    """

    texts: Sequence[str]
    targets: np.ndarray
    options: np.ndarray | None = None

    def first(self, most: int) -> Selection:
        """Return so many of the rows at most."""
        options = None if self.options is None else self.options[:most]
        return Selection(self.texts[:most], self.targets[:most], options)

    def nll(self, model: AdaptedModel, state: AdapterState) -> float:
        """Return a state's mean NLL on the rows, in nats."""
        predictor = Predictor(model, state)
        said = self.said(predictor)
        return float(np.mean(predictor.task.scored(said, self.targets).signals["nll"]))

    def said(self, predictor: Predictor) -> np.ndarray:
        """Return what each draw says of the rows among the labels each may choose from."""
        said = predictor.probabilities(self.texts)
        if self.options is None:
            return said
        return predictor.task.restricted(said, self.options)


Finish = Callable[[AdapterState, Lesson, Selection], AdapterState]


def temperature(state: AdapterState, lesson: Lesson, selection: Selection) -> AdapterState:
    """Return the state with the temperature that suits the selection rows best.

    Raises:
        ConfigError: there are no selection rows, or the task has no class probabilities.
    """
    if not len(selection.texts) or "probability" not in lesson.predicted.answers:
        raise ConfigError(
            "A temperature cannot be fitted",
            found=f"{len(selection.texts)} selection rows of a {lesson.predicted.name} task",
            expected="rows on the selection side of the split, and class probabilities",
            remedy="Raise data.selection, or use another variant.",
        )
    plain = state.with_spec(temperature=1.0)
    probs = torch.from_numpy(selection.said(Predictor(lesson.model, plain)))
    # A label that a row may not choose stays impossible at any temperature.
    log_probs = probs.clamp_min(1e-300).log().where(probs > 0, float("-inf"))
    targets = torch.from_numpy(selection.targets)
    return state.with_spec(temperature=best_temperature(log_probs, targets))


def best_temperature(log_probs: Tensor, targets: Tensor) -> float:
    """Return the T at which the mean of the draws' softmax(log p / T) has the least NLL.

    Args:
        log_probs: (S, N, C) float64; logits up to a constant a row.
        targets: (N,).
    """

    def loss(log_t: float) -> float:
        probs = (log_probs / np.exp(log_t)).softmax(-1).mean(0)
        return float(-probs.gather(1, targets[:, None]).clamp_min(1e-300).log().mean())

    low, high = float(np.log(COLDEST)), float(np.log(HOTTEST))
    golden = (5**0.5 - 1) / 2
    for _ in range(SEARCHES):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


@torch.no_grad()
def laplace(state: AdapterState, lesson: Lesson, selection: Selection) -> AdapterState:
    """Return the state with the head's σ from the exact diagonal of its GGN over the batch.

    σ_j = (1/s̃_j² + N·h_j/λ)^(−½), the optimum of the ELBO to second order, around the mode.

    Raises:
        ConfigError: something else than a linear head of class logits is Gaussian.
    """
    strange = set(state.posterior.shapes) - {"head.weight", "head.bias"}
    if strange or "probability" not in lesson.predicted.answers:
        raise ConfigError(
            "The last layer's Laplace is over a linear head of class logits",
            found=", ".join(sorted(strange)[:3]) or f"a {lesson.predicted.name} task",
            expected="head.weight and head.bias, and nothing else Gaussian",
        )
    q = state.posterior
    weight, bias = _curvature(lesson, state)
    found = {"head.weight": weight, "head.bias": bias}
    curvature = torch.cat([found[name].reshape(-1) for name in q.shapes])
    scaled = len(lesson.rows) / lesson.variant.kl_weight * curvature
    std = (lesson.prior.std.square().reciprocal() + scaled).rsqrt()
    return replace(state, posterior=replace(q, rho=SCALES[q.scale].rho(std)))


FINISHES: dict[str, Finish] = {
    "temperature": temperature,
    "laplace": laplace,
    "training_free": training_free,
}


def head_curvature(pooled: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the diagonal of the GGN of one row's cross-entropy, averaged over rows.

    For logits z = W x + b it is the Hessian itself: Σ_c of p_c (1 − p_c) x_j² at W_cj.

    Args:
        pooled: x, (N, d).
        probs: p, (N, C).

    Returns:
        (C, d) and (C,).
    """
    spread = probs * (1 - probs)
    return spread.t() @ pooled.square() / len(pooled), spread.mean(0)


def _curvature(lesson: Lesson, state: AdapterState) -> tuple[Tensor, Tensor]:
    model = lesson.model
    seen: list[Tensor] = []
    sums = [torch.zeros(()), torch.zeros(())]
    hook = model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # type: ignore[attr-defined]
    weights = unflatten(state.posterior.mean, state.posterior.shapes) | dict(state.point)
    try:
        with model.swapped({name: w.to(model.device) for name, w in weights.items()}):
            order = torch.Generator().manual_seed(0)
            for minibatch in lesson.rows.minibatches(lesson.minibatch, order):
                probs = model.logits(minibatch).float().softmax(-1)
                found = head_curvature(seen.pop().float(), probs)
                share = len(probs) / len(lesson.rows)
                sums = [total + share * one for total, one in zip(sums, found, strict=True)]
    finally:
        hook.remove()
    weight, bias = sums
    return weight.cpu(), bias.cpu()

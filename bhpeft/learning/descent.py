"""Take one step down the loss: draw, forward and backward in one scope, move.

    loss = mean_i[ −log p(y_i | x_i, m + s·ε, φ) ]
           + (λ/N) · [ KL( N(m, s²) ‖ prior ) + ½ Σ_k π_k (φ_k − φ_k,prev)² ]

One draw a step is one `randn` and one fused multiply-add on a flat vector. The drawn vector is the
autograd leaf: the gradients of the mean, of rho and of the KL follow from its gradient by flat
vector operations (`bhpeft.posterior.elbo`), so being Bayesian costs a few per cent of a step.

Source: Blundell et al. 2015 (arXiv 1505.05424), and `bhpeft.posterior.elbo` for the scaling.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from bhpeft.errors import Diverged
from bhpeft.learning.fisher import Fisher, one_row_of
from bhpeft.learning.lesson import Lesson, kl_share, rate_of_means
from bhpeft.learning.movement import MOVES, Pace, groups
from bhpeft.learning.state import AdapterState, layout
from bhpeft.learning.travel import within_reach
from bhpeft.posterior import MeanField, flatten, unflatten
from bhpeft.posterior.dropout import dropped, masks, rates_of
from bhpeft.posterior.elbo import ElboGradient, kl_scale, nll_gradient, online_precision
from bhpeft.posterior.estimators import ESTIMATORS

# A point of the curve once in so many steps. To look at one makes a GPU wait for itself, so they
# stay where they were computed and are looked at so many at a time, and whenever an epoch ends.
READ_EVERY, READ_TOGETHER = 10, 50


@dataclass
class Gathered:
    """The mean NLL of the rows gathered for a step, and its gradients.

    Attributes:
        rows: how many.
        nll: a scalar.
        mean, rho, point: the gradients, flat.
    """

    rows: int
    nll: Tensor
    mean: Tensor
    rho: Tensor
    point: Tensor

    def joined(self, other: Gathered) -> Gathered:
        """Return both together, each row counting the same."""
        rows = self.rows + other.rows
        share = other.rows / rows
        parts = ("nll", "mean", "rho", "point")
        pairs = ((getattr(self, part), getattr(other, part)) for part in parts)
        return Gathered(rows, *(torch.lerp(mine, theirs, share) for mine, theirs in pairs))


@dataclass
class Descent:
    """The vectors that move while a round runs, and one step of moving them.

    Attributes:
        steps: taken so far.
        momentum: the running gradient of the mean, of an optimiser that keeps it here.
        dropout: the share of inputs left out of each draw of a point weight, by name.
        travelled: how far σ can have come in them, in the optimiser's units
            (`bhpeft.learning.travel`).
        curve: what was read off.
        ending: where the loss stopped falling, the step and the rates' factor there; from then on
            the rates fall to zero over what is left.
        epoch_nll: the NLL of the epoch's rows so far, summed.
    """

    lesson: Lesson
    generator: Generator
    mean: Tensor
    rho: Tensor
    point: Tensor
    prior: MeanField
    anchor: Tensor
    precision: Tensor
    optimiser: torch.optim.Optimizer
    gaussian_fisher: Fisher
    point_fisher: Fisher
    momentum: Tensor
    dropout: Mapping[str, float]
    curve: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    travelled: float = 0.0
    ending: tuple[int, float] | None = None
    epoch_nll: Tensor | float = 0.0
    _gathered: Gathered | None = None
    _unread: list[tuple[dict[str, float], Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def begin(cls, lesson: Lesson, generator: Generator) -> Descent:
        """Return the vectors where the round starts, on the model's device."""
        device = lesson.model.device
        start, plan = lesson.start, lesson.plan
        shapes = layout(start.point)
        mean = start.posterior.mean.detach().clone().to(device)
        rho = start.posterior.rho.detach().clone().to(device)
        point = flatten(start.point, shapes).detach().to(device).clone()
        # Round 0 has nothing to be anchored to but a prior around zero, where the variant has one.
        anchor = torch.zeros_like(point) if lesson.first else point.clone()
        anchored = lesson.variant.decays if lesson.first else plan.point_weights == "anchored"
        # The anchor ages with ρ just as the Gaussian prior widens.
        precision = (
            flatten(start.precision, shapes).to(device) * lesson.forgetting * float(anchored)
        )
        fused = device.type in ("cuda", "cpu")
        return cls(
            lesson, generator, mean, rho, point, lesson.prior.to(device), anchor, precision,
            torch.optim.AdamW(groups(mean, rho, point), weight_decay=0.0, fused=fused),
            Fisher(mean.numel(), device), Fisher(point.numel(), device),
            torch.zeros_like(mean), rates_of(lesson.model.sites.parts, lesson.variant.dropout),
        )  # fmt: skip

    @property
    def q(self) -> MeanField:
        """Return the posterior as it is now."""
        return MeanField(self.mean, self.rho, self.prior.shapes, self.prior.scale)

    def become(self, q: MeanField) -> None:
        """Take over a posterior that was computed apart."""
        self.mean.copy_(q.mean)
        self.rho.copy_(q.rho)

    def step(self, minibatch: Mapping[str, Tensor], steps: int) -> None:
        """Take one minibatch in and move."""
        self.gather(minibatch)
        self.move(steps)

    def gather(self, minibatch: Mapping[str, Tensor]) -> None:
        """Draw, run forward and backward in one scope, and keep the gradients.

        Each minibatch has a draw of its own, so that several make a less noisy step than one as
        large as all of them.
        """
        own = len(minibatch["labels"])
        rows = len(minibatch.get("rows", minibatch["labels"]))
        noise = self._noise(own)
        nll, draw_gradient, point_gradient = self._backward(minibatch, noise)
        found = nll_gradient(self.q, noise, draw_gradient)
        # Where every row was drawn for, its score is known; else the mean's gradient tells it.
        scores = one_row_of(draw_gradient, own) if noise.dim() == 2 else nll.new_empty(0)
        nll, mean, rho, point, scores = self.lesson.ranks.mean(
            rows, (nll, found.mean, found.rho, point_gradient, scores)
        )
        self.gaussian_fisher.take(scores if noise.dim() == 2 else one_row_of(mean, rows))
        self.point_fisher.add(point, rows)
        more = Gathered(rows, nll, mean, rho, point)
        self._gathered = more if self._gathered is None else self._gathered.joined(more)

    def move(self, steps: int) -> None:
        """Take a step on what was gathered, the one of `steps` that is next."""
        if self._gathered is None:
            return
        found, self._gathered = self._gathered, None
        self.epoch_nll = self.epoch_nll + found.nll * found.rows
        if self.steps % READ_EVERY == 0 or self.steps == steps - 1:
            self._note(found.nll, steps)
        self._move(found, steps)
        self.steps += 1

    def epoch_loss(self) -> float:
        """Return the loss over the rows since this was last asked: mean NLL + λ/N · KL."""
        nll = float(self.epoch_nll) / len(self.lesson.rows)
        self.epoch_nll = 0.0
        scale = kl_scale(self.lesson.variant.kl_weight, len(self.lesson.rows))
        return nll + scale * float(self.q.kl(self.prior))

    def end_by(self, steps: int) -> None:
        """Let the rates fall from here to zero, whatever the plan has left of `steps`."""
        self.ending = (self.steps, self.lesson.plan.rate(self.steps, steps))

    def _noise(self, rows: int) -> Tensor:
        # The point estimate has no Gaussian weight, hence nothing to draw for each example.
        estimator = self.lesson.variant.estimator if self.q.size else "shared"
        return ESTIMATORS[estimator](self.q, self.lesson.ranks.source(self.generator), rows)

    def _backward(
        self, minibatch: Mapping[str, Tensor], noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        model = self.lesson.model
        draw = self.q.at(noise).requires_grad_()
        point = self.point.clone().requires_grad_()
        points = unflatten(point, layout(self.lesson.start.point))
        left_out = self._left_out(len(minibatch["labels"]))
        weights = unflatten(draw, self.prior.shapes) | points | dropped(points, left_out)
        if self.lesson.projection is not None:
            weights = self.lesson.projection.realised(weights)
        # One scope for both passes: checkpointed layers are computed again in the backward pass
        # and must find the weights of this draw there.
        with model.swapped(weights):
            logits = model.logits(minibatch, per_example=noise.dim() == 2 or bool(left_out))
            nll = self.lesson.predicted.loss(logits, minibatch)
            nll.backward()  # type: ignore[no-untyped-call]
        return nll.detach(), _gradient(draw), _gradient(point)

    def _left_out(self, rows: int) -> dict[str, Tensor]:
        """Return a mask of its own for every row, by weight; none where nothing is left out."""
        shapes = self.lesson.model.shapes
        if not self.dropout:
            return {}
        found = masks(shapes, self.dropout, self.lesson.ranks.source(self.generator), rows)
        return {name: mask.to(self.mean.device) for name, mask in found.items()}

    def _move(self, found: Gathered, steps: int) -> None:
        pace = Pace(self._rate(steps), self._scale(steps), steps)
        gradient = ElboGradient(found.mean, found.rho)
        move = MOVES[self.lesson.variant.optimiser]
        self.travelled += move(self, gradient, self._point_gradient(found.point), pace)

    def _rate(self, steps: int) -> float:
        """Return the learning rates' factor at this step."""
        if self.ending is None:
            return self.lesson.plan.rate(self.steps, steps)
        begun, rate = self.ending
        return rate * (steps - self.steps) / (steps - begun)

    def _scale(self, steps: int) -> float:
        """Return λ/N times the step's share of the KL."""
        lesson = self.lesson
        share = lesson.steps_an_epoch * kl_share(lesson, self.steps, steps)
        return kl_scale(lesson.variant.kl_weight, len(lesson.rows)) * share

    def _point_gradient(self, gradient: Tensor) -> Tensor:
        lesson = self.lesson
        if lesson.plan.point_weights == "frozen" and not lesson.first:
            return torch.zeros_like(gradient)
        anchor = kl_scale(lesson.variant.kl_weight, len(lesson.rows)) * self.precision
        return gradient + anchor * (self.point - self.anchor)

    def _note(self, nll: Tensor, steps: int) -> None:
        """Keep a point of the curve where it was computed."""
        known = {"step": self.steps, "of": steps, "scale": self._scale(steps)}
        known["learning_rate"] = self._rate(steps) * rate_of_means(self.lesson, steps)
        self._unread.append((known, nll, self.q.kl(self.prior)))
        if len(self._unread) >= READ_TOGETHER:
            self.read()

    def read(self) -> None:
        """Look at the points of the curve that were noted.

        Raises:
            Diverged: one is not finite.
        """
        if not self._unread:
            return
        known, nlls, kls = zip(*self._unread, strict=True)
        self._unread.clear()
        found = torch.stack([torch.stack(nlls).double(), torch.stack(kls).double()], dim=1)
        for at, (nll, kl) in zip(known, found.tolist(), strict=True):
            step, of, scale = int(at["step"]), int(at["of"]), at["scale"]
            if not math.isfinite(nll) or not math.isfinite(kl):
                raise diverged(f"at step {step} of {of}", f"NLL {nll}, KL {kl} nats")
            point = {"step": step, "nll": nll, "kl": kl, "loss": nll + scale * kl}
            self.curve.append(point | {"learning_rate": at["learning_rate"]})

    def finished(self) -> AdapterState:
        """Return the candidate, moved back to the CPU.

        Raises:
            Diverged: something is not finite.
        """
        self.read()
        for name, vector in (("mean", self.mean), ("rho", self.rho), ("point", self.point)):
            if not bool(torch.isfinite(vector).all()):
                raise diverged("at its last steps", f"a {name} that is not finite")
        lesson, curvature = self.lesson, self.gaussian_fisher.one_row
        shapes = layout(lesson.start.point)
        precision = online_precision(
            flatten(lesson.start.precision, shapes),
            self.point_fisher.one_row.cpu(),
            len(lesson.rows),
            decay=lesson.forgetting,
            kl_weight=lesson.variant.kl_weight,
        )
        return AdapterState(
            posterior=within_reach(lesson, self.q, self.prior, curvature).to("cpu"),
            prior=lesson.start.prior,
            point=unflatten(self.point.detach().cpu(), shapes),
            precision=unflatten(precision, shapes),
            spec=lesson.start.spec,
        )


def diverged(when: str, found: str) -> Diverged:
    """Return the error for a training that is not finite any more."""
    return Diverged(
        f"Training diverged {when}",
        found=found,
        expected="finite numbers",
        remedy="Lower learning.plan.learning_rate; the batch stays pending.",
    )


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

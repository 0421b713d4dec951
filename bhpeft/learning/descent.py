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
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from bhpeft.errors import Diverged
from bhpeft.learning.fisher import Fisher
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import AdapterState, layout
from bhpeft.learning.variants import Variant
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import TokenTable
from bhpeft.posterior import MeanField, flatten, unflatten
from bhpeft.posterior.elbo import (
    blob_kl_weights,
    kl_gradient,
    kl_scale,
    nll_gradient,
    online_precision,
    warmup,
)

# rho's gradient falls as σ² on the way down, and Adam's usual memory of a thousand steps keeps it
# from arriving: on a noiseless toy with just the travel needed, σ ended 1.78 times its optimum with
# β2 = 0.999 and 0.99 times with 0.95.
RHO_BETAS = (0.9, 0.95)

# Reading the loss makes a GPU wait for itself, so it is read once in so many steps.
READ_EVERY = 10


@dataclass(frozen=True)
class Task:
    """One round's learning problem.

    Attributes:
        model: the frozen base with its methods attached.
        start: where q and the point weights start; q is the prior itself after round 0.
        prior: this round's prior over the Gaussian weights, in the layout of `start`.
        rows: the batch's training rows, tokenised.
        plan: epochs and learning rates.
        variant: what is Gaussian and how the KL enters.
        first: whether this is round 0, which warms the KL up and anchors nothing.
        forgetting: ρ, by which the anchor of the point weights ages too.
    """

    model: AdaptedModel
    start: AdapterState
    prior: MeanField
    rows: TokenTable
    plan: Plan
    variant: Variant
    first: bool
    forgetting: float = 1.0

    @property
    def steps_an_epoch(self) -> int:
        """Return the number of minibatches in one pass over the rows."""
        return self.rows.steps(self.plan.batch_size)


@dataclass
class Descent:
    """The vectors that move while a round runs, and one step of moving them."""

    task: Task
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
    curve: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0

    @classmethod
    def begin(cls, task: Task, generator: Generator) -> Descent:
        """Return the vectors where the round starts, on the model's device."""
        device = task.model.device
        start, plan = task.start, task.plan
        shapes = layout(start.point)
        mean = start.posterior.mean.detach().clone().to(device)
        rho = start.posterior.rho.detach().clone().to(device)
        anchor = flatten(start.point, shapes).detach().to(device)
        point = anchor.clone()
        anchored = plan.point_weights == "anchored" and not task.first
        # The anchor ages with ρ just as the Gaussian prior widens.
        precision = flatten(start.precision, shapes).to(device) * task.forgetting * float(anchored)
        groups: list[dict[str, Any]] = [
            {"params": [mean]},
            {"params": [rho], "betas": RHO_BETAS},
            {"params": [point]},
        ]
        return cls(
            task, generator, mean, rho, point, task.prior.to(device), anchor, precision,
            torch.optim.AdamW(groups, weight_decay=0.0, fused=device.type == "cuda"),
            Fisher(mean.numel(), device), Fisher(point.numel(), device),
        )  # fmt: skip

    @property
    def q(self) -> MeanField:
        """Return the posterior as it is now."""
        return MeanField(self.mean, self.rho, self.prior.shapes, self.prior.scale)

    def step(self, minibatch: Mapping[str, Tensor], steps: int) -> None:
        """Draw, run forward and backward in one scope, and move."""
        noise = self._noise(len(minibatch["labels"]))
        nll, draw_gradient, point_gradient = self._backward(minibatch, noise)
        rows = len(minibatch["labels"])
        self.gaussian_fisher.add(draw_gradient, rows)
        self.point_fisher.add(point_gradient, rows)
        if self.steps % READ_EVERY == 0 or self.steps == steps - 1:
            self._read(nll, steps)
        self._move(noise, draw_gradient, point_gradient, steps)
        self.steps += 1

    def _noise(self, rows: int) -> Tensor:
        # The point estimate has no Gaussian weight, hence nothing to draw for each example.
        draws = rows if self.task.variant.per_example and self.q.size else None
        return self.q.noise(self.generator, draws)

    def _backward(
        self, minibatch: Mapping[str, Tensor], noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        model = self.task.model
        draw = self.q.at(noise).requires_grad_()
        point = self.point.clone().requires_grad_()
        weights = unflatten(draw, self.prior.shapes) | unflatten(
            point, layout(self.task.start.point)
        )
        # One scope for both passes: checkpointed layers are computed again in the backward pass
        # and must find the weights of this draw there.
        with model.swapped(weights):
            logits = model.logits(minibatch, per_example=noise.dim() == 2)
            nll = cross_entropy(logits.float(), minibatch["labels"].to(logits.device))
            nll.backward()  # type: ignore[no-untyped-call]
        return nll.detach(), _gradient(draw), _gradient(point)

    def _move(
        self, noise: Tensor, draw_gradient: Tensor, point_gradient: Tensor, steps: int
    ) -> None:
        plan, variant = self.task.plan, self.task.variant
        rate = plan.rate(self.steps, steps)
        scale = self._scale(steps)
        nll, kl = nll_gradient(self.q, noise, draw_gradient), kl_gradient(self.q, self.prior)
        joint = 0.0 if variant.kl_by_sgd else scale
        self.mean.grad = nll.mean + joint * kl.mean
        self.rho.grad = nll.rho + joint * kl.rho
        self.point.grad = self._point_gradient(point_gradient)
        rho_rate = plan.rho_learning_rate * variant.rho_step
        rates = (plan.learning_rate, rho_rate, plan.learning_rate)
        for group, base in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = base * rate
        self.optimiser.step()
        if variant.kl_by_sgd:
            self.mean.sub_(kl.mean, alpha=plan.kl_learning_rate * rate * scale)
            self.rho.sub_(kl.rho, alpha=plan.kl_learning_rate * rate * scale)

    def _scale(self, steps: int) -> float:
        """Return λ/N times the step's share of the KL."""
        task = self.task
        scale = kl_scale(task.variant.kl_weight, len(task.rows))
        if task.first:
            scale *= warmup(self.steps, steps, task.plan.kl_warmup)
        if task.variant.kl_schedule == "increasing":
            minibatches = task.steps_an_epoch
            scale *= minibatches * blob_kl_weights(minibatches)[self.steps % minibatches]
        return scale

    def _point_gradient(self, gradient: Tensor) -> Tensor:
        task = self.task
        if task.plan.point_weights == "frozen" and not task.first:
            return torch.zeros_like(gradient)
        anchor = kl_scale(task.variant.kl_weight, len(task.rows)) * self.precision
        return gradient + anchor * (self.point - self.anchor)

    def _read(self, nll: Tensor, steps: int) -> None:
        kl = float(self.q.kl(self.prior))
        value = float(nll)
        if not math.isfinite(value) or not math.isfinite(kl):
            raise diverged(f"at step {self.steps} of {steps}", f"NLL {value}, KL {kl} nats")
        rate = self.task.plan.rate(self.steps, steps)
        self.curve.append(
            {
                "step": self.steps,
                "nll": value,
                "kl": kl,
                "loss": value + self._scale(steps) * kl,
                "learning_rate": rate * self.task.plan.learning_rate,
            }
        )

    def finished(self) -> AdapterState:
        """Return the candidate, moved back to the CPU."""
        for name, vector in (("mean", self.mean), ("rho", self.rho), ("point", self.point)):
            if not bool(torch.isfinite(vector).all()):
                raise diverged("at its last steps", f"a {name} that is not finite")
        task = self.task
        shapes = layout(task.start.point)
        precision = online_precision(
            flatten(task.start.precision, shapes),
            self.point_fisher.one_row.cpu(),
            len(task.rows),
            decay=task.forgetting,
            kl_weight=task.variant.kl_weight,
        )
        return AdapterState(
            posterior=self.q.to("cpu"),
            prior=task.start.prior,
            point=unflatten(self.point.detach().cpu(), shapes),
            precision=unflatten(precision, shapes),
            spec=task.start.spec,
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

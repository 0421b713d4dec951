"""Hold a mean-field Gaussian over a set of weights as two flat vectors.

    q(w) = Π_j N(w_j; m_j, s_j²)        w = m + s·ε,  ε ~ N(0, 1)
    KL_j(q ‖ p) = log(s̃/s) + (s² + (m − m̃)²) / (2 s̃²) − ½

The posterior is a value outside the model. `mean` and `rho` are (P,) float32 whatever the model's
dtype, and `shapes` is the layout that says which stretch of the vector is which weight: a draw is
one `randn` and one fused multiply-add, and the optimiser sees two tensors instead of hundreds.

Source: Blundell et al. 2015 (arXiv 1505.05424) for softplus; BLoB (arXiv 2406.11675, §3.1) for G².
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from bhpeft.errors import ConfigError, StateError
from bhpeft.plugins import resolve

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Scale:
    """How the free parameter rho becomes a standard deviation.

    Attributes:
        std: rho → σ.
        rho: σ → the rho ≥ 0 branch, or the only one, that gives it.
        slope: rho → dσ/d rho, for gradients written by hand.
    """

    std: Callable[[Tensor], Tensor]
    rho: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _softplus_inverse(std: Tensor) -> Tensor:
    # log(eˢ − 1) without the overflow of eˢ for large s or the cancellation for small s.
    return std + torch.log(-torch.expm1(-std))


SCALES: dict[str, Scale] = {
    "softplus": Scale(std=F.softplus, rho=_softplus_inverse, slope=torch.sigmoid),
    "square": Scale(std=torch.square, rho=torch.sqrt, slope=lambda rho: 2.0 * rho),
}


@dataclass(frozen=True, eq=False)
class MeanField:
    """A diagonal Gaussian over the weights that `shapes` names.

    Attributes:
        mean: (P,) float32.
        rho: (P,) float32; σ is `SCALES[scale].std(rho)`.
        shapes: weight name → shape, in the order the weights lie in the vectors.
        scale: a key of `SCALES`.

    Raises:
        StateError: a vector is not flat float32, or does not fit `shapes`.
        UnknownName: there is no such scale.
    """

    mean: Tensor
    rho: Tensor
    shapes: Shapes
    scale: str = "softplus"

    def __post_init__(self) -> None:
        resolve("scale", self.scale, SCALES)
        size = _size(self.shapes)
        for name, vector in (("mean", self.mean), ("rho", self.rho)):
            if tuple(vector.shape) != (size,) or vector.dtype != torch.float32:
                raise StateError(
                    f"The posterior's {name} does not fit its layout",
                    found=f"{vector.dtype} of shape {tuple(vector.shape)}",
                    expected=f"torch.float32 of shape ({size},) for {len(self.shapes)} weights",
                    remedy="Build it with `flatten`, which follows the same layout.",
                )

    @classmethod
    def from_std(
        cls, mean: Tensor, std: Tensor, shapes: Shapes, scale: str = "softplus"
    ) -> MeanField:
        """Return the Gaussian with this mean (P,) and standard deviation (P,).

        Raises:
            StateError: a standard deviation is not positive and finite, or a size is wrong.
        """
        if not bool(((std > 0) & std.isfinite()).all()):
            raise StateError(
                "A posterior needs a standard deviation for every weight",
                found=f"σ from {float(std.min()):.3g} to {float(std.max()):.3g}",
                expected="positive, finite values",
            )
        return cls(mean, resolve("scale", scale, SCALES).rho(std), shapes, scale)

    @property
    def std(self) -> Tensor:
        """Return the standard deviations, (P,)."""
        return SCALES[self.scale].std(self.rho)

    @property
    def size(self) -> int:
        """Return P, the number of Gaussian weights."""
        return self.mean.numel()

    def noise(
        self, generator: torch.Generator, draws: int | None = None, antithetic: bool = False
    ) -> Tensor:
        """Return standard normal ε, (P,), or (draws, P).

        The numbers are made on the generator's device and then moved, so a CPU generator gives
        the same draws on every device. `antithetic` makes the second half the first half's
        negative, which cancels the odd part of the Monte Carlo error.

        Raises:
            ConfigError: an odd number of antithetic draws.
        """
        if antithetic and (draws is None or draws % 2):
            raise ConfigError(
                "Antithetic draws come in pairs",
                found="one draw" if draws is None else f"{draws} draws",
                expected="an even number of draws",
            )
        count = [] if draws is None else [draws // 2 if antithetic else draws]
        eps = torch.randn(*count, self.size, generator=generator, device=generator.device)
        eps = eps.to(self.mean.device)
        return torch.cat([eps, -eps]) if antithetic else eps

    def at(self, eps: Tensor) -> Tensor:
        """Return the weights m + s·ε for noise (P,) or (S, P), in the noise's shape."""
        return torch.addcmul(self.mean, self.std, eps)

    def draw(
        self, generator: torch.Generator, draws: int | None = None, antithetic: bool = False
    ) -> Tensor:
        """Return one draw of all weights, (P,), or `draws` of them, (draws, P)."""
        return self.at(self.noise(generator, draws, antithetic))

    def kl_terms(self, prior: MeanField) -> Tensor:
        """Return KL(q_j ‖ prior_j) in nats for each weight, (P,) float64.

        float64 because log(s̃/s) + s²/(2s̃²) − ½ cancels near s = s̃, where every later round
        starts.

        Raises:
            StateError: the prior is over other weights.
        """
        same_layout(self, prior)
        mean, std = self.mean.double(), SCALES[self.scale].std(self.rho.double())
        base, width = prior.mean.double(), SCALES[prior.scale].std(prior.rho.double())
        gap = mean - base
        return torch.log(width / std) + (std**2 + gap**2) / (2 * width**2) - 0.5

    def kl(self, prior: MeanField) -> Tensor:
        """Return KL(q ‖ prior) in nats, a float64 scalar that autograd can follow."""
        return self.kl_terms(prior).sum()

    def kl_by(self, prior: MeanField, block: Callable[[str], str]) -> dict[str, float]:
        """Return the KL in nats summed over the weights whose names share a `block(name)`."""
        sizes = [prod(shape) for shape in self.shapes.values()]
        terms = torch.split_with_sizes(self.kl_terms(prior).detach(), sizes)
        nats: dict[str, float] = {}
        for name, value in zip(self.shapes, terms, strict=True):
            nats[block(name)] = nats.get(block(name), 0.0) + float(value.sum())
        return nats

    def to(self, device: torch.device | str) -> MeanField:
        """Return the same Gaussian on `device`."""
        return replace(self, mean=self.mean.to(device), rho=self.rho.to(device))


def flatten(weights: Mapping[str, Tensor], shapes: Shapes) -> Tensor:
    """Return the weights as one (P,) float32 vector in the order of `shapes`.

    Raises:
        StateError: a weight is missing, unknown or misshapen; names it.
    """
    strange = sorted(set(weights).symmetric_difference(shapes))
    if strange:
        raise StateError(
            "The weights are not the ones the posterior is over",
            found=f"{len(weights)} weights; first that does not match: {strange[0]!r}",
            expected=f"exactly the {len(shapes)} weights of the layout",
        )
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != tuple(shape):
            raise StateError(
                f"The weight {name!r} does not fit the posterior",
                found=f"shape {tuple(weights[name].shape)}",
                expected=f"shape {tuple(shape)}",
            )
    if not shapes:
        return torch.zeros(0)
    return torch.cat([weights[name].reshape(-1).float() for name in shapes])


def unflatten(flat: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """Return views of a (P,) or (S, P) vector by name; a leading S stays in front of each shape.

    Raises:
        StateError: the vector's last dimension is not the layout's P.
    """
    size = _size(shapes)
    if flat.shape[-1] != size:
        raise StateError(
            "The vector does not fit the layout",
            found=f"{flat.shape[-1]} numbers",
            expected=f"{size} for {len(shapes)} weights",
        )
    lead = flat.shape[:-1]
    parts = torch.split_with_sizes(flat, [prod(shape) for shape in shapes.values()], dim=-1)
    return {
        name: part.view(*lead, *shape)
        for (name, shape), part in zip(shapes.items(), parts, strict=True)
    }


def same_layout(left: MeanField, right: MeanField) -> None:
    """Check that two Gaussians are over the same weights in the same order.

    Raises:
        StateError: they are not; names the first weight that differs.
    """
    if left.shapes is right.shapes:
        return
    ours, theirs = list(left.shapes.items()), list(right.shapes.items())
    if ours == theirs:
        return
    first = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
    raise StateError(
        "Two posteriors over different weights cannot be compared",
        found=f"{first[1]}" if first else f"{len(theirs)} weights",
        expected=f"{first[0]}" if first else f"{len(ours)} weights",
        remedy="Both must come from the same base model, methods and labels.",
    )


def _size(shapes: Shapes) -> int:
    return sum(prod(shape) for shape in shapes.values())

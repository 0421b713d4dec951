"""Lay the weights of frozen linear maps out once, as the processor's products read them.

    y = x Wᵀ + bias        dx = dy W

A product reads its weight in blocks, and lays a plain one out anew each time it is called: nothing
beside thousands of tokens, a tenth of a product of hundreds, and a third of one of eight. Frozen
weights never change, so they are laid out at their first product and kept so beside the plain ones:
once more for what goes back, where anything is trained. It is the same product in another order of
additions.

Whether it pays is measured (`bhpeft.models.pace`): GFLOP/s of one core with and without, 384 wide,
were 57 and 88 at eight tokens in float32, 87 and 106 at 32, 99 and 110 at 1,536; in bfloat16 98 and
140, 164 and 199, 207 and 218.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Beyond so many bytes of plain weights the copies are not worth their memory, unless asked for.
MOST_BYTES = 256 * 2**20
DTYPES = (torch.float32, torch.bfloat16)


class LaidOutLinear(nn.Linear):
    """A frozen linear module with its weight laid out beside it, and no parameter more."""

    def __init__(self, plain: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.train(plain.training)
        self._layouts: dict[str, tuple[tuple[int, int], Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, in) to (…, out)."""
        if not self.serves(x):
            return super().forward(x)
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            return y
        return self.times(x)

    def serves(self, x: Tensor) -> bool:
        """Say whether the layout is for such an x: on the CPU, beside a weight that stays."""
        weight = self.weight
        plain = type(weight) is nn.Parameter and not weight.requires_grad and x.dtype in DTYPES
        return plain and x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype

    def times(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + bias; autograd does not see it."""
        return _product(x, self._layout("forward", self.weight), self.bias)

    def back(self, gradient: Tensor) -> Tensor:
        """Return dy W; autograd does not see it."""
        return _product(gradient, self._layout("backward", self.weight.t()), None)

    def _layout(self, way: str, weight: Tensor) -> Tensor:
        """Return a weight's layout, made anew if the weight is no longer the one it was made of."""
        made_of = (weight.data_ptr(), weight._version)
        known = self._layouts.get(way)
        if known is None or known[0] != made_of:
            with torch.no_grad():
                laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
            known = self._layouts[way] = (made_of, laid_out)
        return known[1]


def lay_out(model: nn.Module) -> None:
    """Freeze a model and put `LaidOutLinear` in place of its linear modules, before methods come.

    Where torch was built without oneDNN, or a weight is of another dtype, nothing changes.
    """
    if not available():
        return
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Linear and module.weight.dtype in DTYPES:
                setattr(parent, name, LaidOutLinear(module))


def available() -> bool:
    """Say whether torch has these products here."""
    # Inductor's own; a build without oneDNN does not have them.
    names = ("_reorder_linear_weight", "_linear_pointwise")
    present: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return present and all(hasattr(torch.ops.mkldnn, name) for name in names)


def is_laid_out(model: nn.Module) -> bool:
    """Say whether any weight inside is."""
    return any(isinstance(module, LaidOutLinear) for module in model.modules())


def linear_bytes(model: nn.Module) -> int:
    """Return how much memory one layout of every linear module of a model takes."""
    weights = (m.weight for m in model.modules() if isinstance(m, nn.Linear))
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _product(x: Tensor, layout: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x.detach(), layout, bias, "none", [], "")
    return y


class _Product(torch.autograd.Function):
    """The formulas above; nothing is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: LaidOutLinear) -> Tensor:
        ctx.module = module
        return module.times(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return ctx.module.back(gradient), None

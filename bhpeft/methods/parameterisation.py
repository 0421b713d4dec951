"""Say which factors of a low-rank map are learned: one interface for LoRA and adapters.

    y = … + s · U φ(C D x)        D (rank, in), C (rank, rank), U (out, rank)

    blob      D and U are learned, there is no C. D starts as any linear map does, U at zero. The
              Gaussian is on D: (D, U) and (R D, U R⁻¹) are one function, so never on both.
    linear    U alone, from zero; D has frozen orthonormal rows. Without φ the map is linear in
              what is learned: no gauge, no dead start, posteriors can be averaged over streams.
    core      C alone, from zero, rank² numbers; D has frozen orthonormal rows and U is √(out/rank)
              times frozen orthonormal columns, so that one σ on C spreads the output as far as the
              same σ on U does under `linear`: s·√rank·σ for inputs of unit variance.

Frozen factors come from the seed the model is built with; they are part of a chain's gauge.

Sources: BLoB (arXiv 2406.11675) for the asymmetric Gaussian; LoRA-FA (arXiv 2308.03303) for a
frozen D; LoRA-XS (arXiv 2405.17604) for the core between frozen factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Generator, Tensor, nn

from bhpeft.methods.sites import Site
from bhpeft.methods.start import beside, kaiming
from bhpeft.plugins import resolve


@dataclass(frozen=True)
class Names:
    """What a method calls the factors D, C and U."""

    down: str
    up: str
    core: str = "core"


@dataclass(frozen=True)
class Sizes:
    """The widths of a low-rank map: `inputs` → `rank` → `outputs`."""

    inputs: int
    rank: int
    outputs: int


# Which of D, C and U are learned.
PARAMETERISATIONS: dict[str, frozenset[str]] = {
    "blob": frozenset({"down", "up"}),
    "linear": frozenset({"up"}),
    "core": frozenset({"core"}),
}


def place_factors(
    module: nn.Module,
    place: nn.Module,
    names: Names,
    sizes: Sizes,
    parameterisation: str,
    generator: Generator,
) -> None:
    """Give `module` its factors: parameters where they are learned, buffers where frozen.

    Args:
        module: gets attributes by `names`; the core's is None where there is none.
        place: the module on whose device they go.
        names: of the factors.
        sizes: of the map.
        parameterisation: a key of `PARAMETERISATIONS`.
        generator: on the CPU.

    Raises:
        UnknownName: there is no such parameterisation.
    """
    learned = resolve("parameterisation", parameterisation, PARAMETERISATIONS)
    inputs, rank, outputs = sizes.inputs, sizes.rank, sizes.outputs
    if "down" in learned:
        setattr(module, names.down, beside(place, lambda: kaiming(rank, inputs, generator)))
    else:
        _freeze(module, place, names.down, orthonormal(inputs, rank, generator).t())
    if "up" in learned:
        setattr(module, names.up, beside(place, lambda: torch.zeros(outputs, rank)))
    else:
        spread = sqrt(outputs / rank) * orthonormal(outputs, rank, generator)
        _freeze(module, place, names.up, spread)
    core = beside(place, lambda: torch.zeros(rank, rank)) if "core" in learned else None
    module.register_parameter(names.core, core)


def factor_sites(
    module: nn.Module, name: str, method: str, names: Names, sizes: Sizes, layer: int
) -> Iterator[Site]:
    """Yield the sites of the factors that are learned."""
    fan_in = {names.down: sizes.inputs, names.core: sizes.rank, names.up: sizes.rank}
    for leaf, inputs in fan_in.items():
        if module._parameters.get(leaf) is not None:
            yield Site(f"{name}.{leaf}", f"{method}.{leaf}", module, leaf, inputs, layer)


def orthonormal(size: int, rank: int, generator: Generator) -> Tensor:
    """Return a random (size, rank) matrix with orthonormal columns, fixed by the generator."""
    q, r = torch.linalg.qr(torch.randn(size, rank, generator=generator, dtype=torch.float64))
    # QR leaves the signs of the columns to the library; these are the unique ones.
    return (q * torch.diagonal(r).sign()).float()


def _freeze(module: nn.Module, place: nn.Module, name: str, value: Tensor) -> None:
    device = next(place.parameters()).device
    module.register_buffer(name, value.contiguous().to(device), persistent=False)

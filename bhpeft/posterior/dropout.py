"""Drop inputs of a linear map: a draw of it is a weight with some of its columns at zero.

    W (x ∘ z) = (W diag(z)) x        z_j = 0 with probability p, else 1/(1 − p)

So MC-dropout is a posterior like another one, of atoms around W, and its draws go where draws of a
Gaussian go. One z is one value of the weights: the same for all tokens of a text, as in Gal &
Ghahramani's dropout for sequences, and not for each token anew as in `nn.Dropout`.

Sources: Gal & Ghahramani 2016 (arXiv 1506.02142) §3, and 2016 (arXiv 1512.05287) for sequences.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from bhpeft.posterior.meanfield import Shapes


def rates_of(parts: Mapping[str, str], by_part: Mapping[str, float]) -> dict[str, float]:
    """Return p of every weight whose inputs are dropped, by name.

    Args:
        parts: the part of every weight, by name.
        by_part: p by part.
    """
    return {name: by_part[part] for name, part in parts.items() if part in by_part}


def masks(
    shapes: Shapes, rates: Mapping[str, float], generator: Generator, draws: int
) -> dict[str, Tensor]:
    """Return z of so many draws by name, (draws, in) each.

    Args:
        shapes: of the weights, (…, in).
        rates: p by name; the order of names is theirs.
        generator: the source; the masks are on its device.
        draws: how many.
    """
    found = {}
    for name in sorted(rates):
        keep = 1.0 - rates[name]
        chance = torch.full((draws, shapes[name][-1]), keep, device=generator.device)
        found[name] = torch.bernoulli(chance, generator=generator) / keep
    return found


def dropped(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masked weights by name, (draws, …, in), and nothing of the others.

    Args:
        weights: without draws, (…, in).
        masks: (draws, in) by name.
    """
    return {
        name: weights[name] * mask.reshape(len(mask), *(1,) * (weights[name].ndim - 1), -1)
        for name, mask in masks.items()
    }

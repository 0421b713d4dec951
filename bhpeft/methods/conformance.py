"""Check that a method keeps the contract everything above it relies on.

    check_method(MyMethod(), build_model, minibatch)

Run it in a test on your own method, with a function that builds a small model; the methods that
ship pass it on every architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor
from transformers import PreTrainedModel

from bhpeft.errors import ModelError
from bhpeft.methods import Method, Sites, attach, bypassed, swapped
from bhpeft.methods.sampled import tile
from bhpeft.methods.sites import INPUT

# Float32 sums in another order differ by this much at most on hidden states of order one.
TOLERANCE = 1e-4


def check_method(
    method: Method, build: Callable[[], PreTrainedModel], minibatch: Mapping[str, Tensor]
) -> None:
    """Try `method` on a small model.

    Args:
        method: with its settings.
        build: returns a fresh model, the same every time.
        minibatch: input_ids and attention_mask, (B, T).

    Raises:
        ModelError: naming the first rule that is broken.
    """
    model = build()
    with torch.no_grad():
        plain = model(**minibatch).last_hidden_state
    sites = attach(model, [method], Generator().manual_seed(0))
    again = attach(build(), [method], Generator().manual_seed(0))
    weights = _draws(sites)
    with torch.no_grad():
        _check_names(sites)
        _check_start(sites, again)
        _check_bypass(model, sites, weights, minibatch, plain)
        _check_draws(model, sites, weights, minibatch)


def _check_names(sites: Sites) -> None:
    for name, site in sites.items():
        place = "input." if site.layer == INPUT else f"{site.layer}."
        if not name.endswith(f".{site.part}") or not name.startswith(place):
            raise _broken("a site is named <layer>.<place>.<part>, or input.<part>", name)
        if not site.tensor.requires_grad or site.tensor.dtype != torch.float32:
            raise _broken("a site is a float32 parameter that requires gradients", name)
    if not len(sites):
        raise _broken("a method adds at least one weight", "none")


def _check_start(sites: Sites, again: Sites) -> None:
    for name, tensor in sites.values().items():
        if not torch.equal(tensor, again.values()[name]):
            raise _broken("one seed gives one start", name)


def _check_bypass(
    model: PreTrainedModel,
    sites: Sites,
    weights: Mapping[str, Tensor],
    minibatch: Mapping[str, Tensor],
    plain: Tensor,
) -> None:
    with swapped(sites, {name: tensor[0] for name, tensor in weights.items()}):
        if torch.equal(model(**minibatch).last_hidden_state, plain):
            raise _broken("the weights change the output", "no change")
        with bypassed(sites):
            found = model(**minibatch).last_hidden_state
    if not torch.equal(found, plain):
        raise _broken("a bypassed method leaves the base bit-identical", "another output")


def _check_draws(
    model: PreTrainedModel,
    sites: Sites,
    weights: Mapping[str, Tensor],
    minibatch: Mapping[str, Tensor],
) -> None:
    draws = len(next(iter(weights.values())))
    looped = []
    for s in range(draws):
        with swapped(sites, {name: tensor[s] for name, tensor in weights.items()}):
            looped.append(model(**minibatch).last_hidden_state)
    with swapped(sites, weights):
        tiled = {name: tile(tensor, draws) for name, tensor in minibatch.items()}
        folded = model(**tiled).last_hidden_state
    error = (folded - torch.cat(looped)).abs().max().item()
    if error > TOLERANCE:
        raise _broken("draws in one pass equal one pass a draw", f"a difference of {error:.1e}")


def _draws(sites: Sites, draws: int = 3) -> dict[str, Tensor]:
    generator = Generator().manual_seed(1)
    return {
        name: 0.3 * torch.randn(draws, *shape, generator=generator)
        for name, shape in sites.shapes.items()
    }


def _broken(rule: str, found: str) -> ModelError:
    return ModelError(
        "The method breaks the contract of bhpeft.methods",
        found=found,
        expected=rule,
        remedy="See bhpeft/methods/lora.py for a method that keeps it.",
    )

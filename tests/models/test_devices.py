"""Layers on several devices: which goes where, and that all that meets is on the same one.

There is no GPU here. Forward passes run on torch's fake tensors, which have a device, no numbers,
and refuse to meet one of another; the second device is called "meta". Numbers and gradients are
those of "several" devices that are all the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from bhpeft.errors import ModelError
from bhpeft.methods import BitFit, LoRA, Method, ParallelAdapter, Prefix, Prompt
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.devices import devices_here, shares
from tests import tiny

CPUS = [torch.device("cpu"), torch.device("cpu")]
TWO = [torch.device("cpu"), torch.device("meta")]
GPUS = [torch.device("cuda:0"), torch.device("cuda:1")]
without_gpus = pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without GPUs")


def adapted(family: str, **options: str) -> AdaptedModel:
    """Every method that the family takes, above, below and inside of the layers."""
    methods: list[Method] = [LoRA(), ParallelAdapter()]
    if family in tiny.FAMILIES:
        methods += [Prefix(length=2), Prompt(length=2)]
    if family in ("bert", "roberta", "distilbert", "gpt2"):
        methods += [BitFit()]
    return AdaptedModel(tiny.base(family, 4), methods, 3, generator=tiny.generator(), **options)


def roomy(model: AdaptedModel, devices: list[torch.device]) -> AdaptedModel:
    return model.spread(devices, [1] * len(devices))


@contextmanager
def fakes() -> Iterator[None]:
    """Let every tensor that is made or moved be a fake one, which may be on any device."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield


def test_layers_fill_each_device_by_the_same_part_in_order() -> None:
    """The first one has the embeddings and the head besides."""
    assert shares([10] * 8, 0, [1, 1]) == [0] * 4 + [1] * 4
    assert shares([10] * 8, 40, [1, 1]) == [0, 0] + [1] * 6
    assert shares([10] * 8, 0, [3, 1]) == [0] * 6 + [1] * 2
    assert shares([10] * 8, 0, [1, 2, 1]) == [0, 0, 1, 1, 1, 1, 2, 2]
    assert shares([10], 500, [1, 1]) == [1]


@without_gpus
@pytest.mark.parametrize("said", ["cuda", "cuda:1", ("cuda:0", "cuda:1")])
def test_a_device_that_is_not_there_is_named_with_what_to_do(said: str | tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="no CUDA device") as caught:
        devices_here(said)
    assert "compute.queue" in caught.value.remedy


@without_gpus
def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert devices_here("auto") == devices_here("cpu") == (torch.device("cpu"),)


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "deberta"])
def test_spread_layers_say_the_same_and_give_the_same_gradients(family: str) -> None:
    """Also under draws, which are folded, and with layers recomputed in the backward pass.

    A DeBERTa takes one draw after the other, and none of them with layers recomputed.
    """
    draws = None if family == "deberta" else 3
    found: list[list[Tensor]] = []
    for spread in (False, True):
        model = adapted(family)
        if spread:
            roomy(model, CPUS)
        leaves = {n: t.requires_grad_() for n, t in tiny.draw(model.shapes, draws).items()}
        with model.checkpointed(), model.swapped(leaves):
            logits = model.logits(tiny.minibatch())
            logits.square().sum().backward()
        found.append([logits.detach(), *(leaf.grad for leaf in leaves.values())])
    for alone, apart in zip(*found, strict=True):
        assert_close(apart, alone)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("family", [*tiny.FAMILIES])
def test_nothing_meets_what_is_on_another_device(family: str, pooling: str) -> None:
    """With weights drawn on the first one, as a round draws them."""
    model = adapted(family, pooling=pooling)
    with fakes():
        roomy(model, TWO)
        assert set(model.places) == set(TWO)
        assert model.device == TWO[0]
        rows = tiny.minibatch()
        for draws in (None, 3):
            lead = () if draws is None else (draws,)
            weights = {n: torch.zeros((*lead, *s), device=TWO[0]) for n, s in model.shapes.items()}
            with model.swapped(weights):
                logits = model.logits(rows)
            assert logits.device == TWO[0]
            assert logits.shape == (3 * (draws or 1), 3)


def test_without_the_moves_they_would_not_meet() -> None:
    """What makes the test before able to fail."""
    model = adapted("bert")
    with fakes():
        roomy(model, TWO)
        model._spread.remove()
        rows = tiny.minibatch()
        with pytest.raises(RuntimeError, match="same device"):
            model.logits(rows)


def test_moved_to_one_device_it_is_there_as_a_whole() -> None:
    model = roomy(adapted("bert"), CPUS).to("cpu")
    assert model.places == [torch.device("cpu")] * 4
    assert model.logits(tiny.minibatch()).shape == (3, 3)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_say_what_the_cpu_says() -> None:
    alone, apart = adapted("llama"), adapted("llama").spread(GPUS)
    weights = tiny.draw(alone.shapes, 3)
    with alone.swapped(weights):
        expected = alone.logits(tiny.minibatch())
    with apart.swapped({name: tensor.to(GPUS[0]) for name, tensor in weights.items()}):
        found = apart.logits(tiny.minibatch())
    assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)

"""What is recorded says what the plain pass says; CUDA records, here a stand-in on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bhpeft.methods import LoRA, ParallelAdapter, Prefix
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.encode import padded
from bhpeft.models.graphs import SHAPES, Graphs, bucket, widened
from tests import tiny


def stand_in(run, inputs):
    """Record like CUDA: later plays read the inputs' memory and write the output's."""
    output = run(inputs).clone()

    def play() -> None:
        output.copy_(run(inputs))

    return play, output


def model() -> AdaptedModel:
    methods = [LoRA(rank=2), ParallelAdapter(bottleneck=3), Prefix(length=2)]
    return AdaptedModel(tiny.base(), methods, 2, generator=tiny.generator())


def minibatch(rows: int, tokens: int, seed: int = 0) -> dict[str, Tensor]:
    source = tiny.generator(seed)
    lengths = torch.randint(1, tokens + 1, (rows,), generator=source)
    lengths[0] = tokens
    return padded([torch.randint(3, 20, (int(n),), generator=source).tolist() for n in lengths], 0)


@pytest.mark.parametrize("draws", [None, 3])
def test_a_recording_says_what_the_plain_pass_says(draws: int | None) -> None:
    """Of other rows and other lengths in the same shape, one after another."""
    adapted = model()
    weights = tiny.draw(adapted.shapes, draws, std=0.3)
    with torch.no_grad(), adapted.swapped(weights):
        graphs = Graphs(adapted.logits, draws or 1, 0, stand_in)
        for seed, (rows, tokens) in enumerate([(5, 9), (7, 12), (8, 16), (5, 3), (3, 20), (4, 17)]):
            given = minibatch(rows, tokens, seed)
            assert_close(graphs(given), adapted.logits(given), atol=2e-6, rtol=1e-5)
    assert set(graphs.recorded) == {(8, 16), (4, 32)}


def test_a_shape_is_recorded_when_it_comes_again() -> None:
    """Once is not worth a recording, and no more than so many are kept."""
    graphs = Graphs(lambda given: given["input_ids"].float(), 1, 0, stand_in)
    graphs(minibatch(4, 16))
    assert not graphs.recorded
    for rows in (1, 2, 4, 8, 16, 32):
        for tokens in (16, 32, 48, 64):
            for _ in range(2):
                graphs(minibatch(rows, tokens))
    assert len(graphs.recorded) == SHAPES


def test_what_cannot_be_recorded_runs_as_it_is() -> None:
    def refusing(run, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    adapted = model()
    graphs = Graphs(adapted.logits, 1, 0, refusing)
    given = minibatch(3, 5)
    with torch.no_grad():
        for _ in range(3):
            assert torch.equal(graphs(given), adapted.logits(given))
    assert not graphs.able


def test_shapes_are_few_and_what_is_added_is_hidden() -> None:
    assert [bucket(*shape) for shape in ((1, 1), (5, 16), (8, 17))] == [(1, 16), (8, 16), (8, 32)]
    given = minibatch(3, 5)
    wide = widened(given, (4, 16), pad=9)
    assert torch.equal(wide["input_ids"][:3, :5], given["input_ids"])
    assert wide["attention_mask"].sum() == given["attention_mask"].sum() + 1
    assert (wide["input_ids"][:, 5:] == 9).all()

from __future__ import annotations

import shutil
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

from bhpeft.data.batch import open_batch
from bhpeft.errors import CheckpointError
from bhpeft.exchange import state_from_peft
from bhpeft.exchange.checkpoint import PREFIX, Checkpoint, write_checkpoint
from bhpeft.learning.predict import Predictor
from bhpeft.registry import Registry
from bhpeft.rounds.intake import take_in
from bhpeft.rounds.spec import model_of, spec_of, variant_of
from bhpeft.rounds.training import start_of, train
from tests import tiny
from tests.rounds.conftest import Chain, begin


@pytest.fixture
def chain(tmp_path: Path, request: pytest.FixtureRequest) -> Chain:
    """A stream that starts from a LoRA of rank 3 on the query and value of its one layer."""
    tensors = {
        f"{PREFIX}encoder.layer.0.attention.self.{place}.lora_{side}.weight": 0.1
        * torch.randn(shape, generator=tiny.generator(seed))
        for seed, (place, side, shape) in enumerate(
            (place, side, shape)
            for place in ("query", "value")
            for side, shape in (("A", (3, 384)), ("B", (384, 3)))
        )
    }
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["query", "value"]}
    config["init_lora_weights"] = True
    head = {"weight": torch.randn(2, 384, generator=tiny.generator(8)), "bias": torch.ones(2)}
    write_checkpoint(Checkpoint(config, tensors, head), {}, tmp_path / "lora")
    name = f"started-{crc32(request.node.name.encode())}"
    begun = begin(Registry("sqlite://"), tmp_path, name)
    for number in (1, 2):
        begun.deliver(f"b{number}", day=number)
    return begun.with_learning(start=Path("lora"))


def test_a_stream_starts_where_a_peft_checkpoint_is_and_goes_on_without_it(chain: Chain) -> None:
    """Equal logits before the first step; the checkpoint is what is known before round 0."""

    def taken(batch_id, parent):
        batch = open_batch(chain.stream.landing / chain.stream.name / batch_id)
        model = model_of(chain.stream, chain.contract, parent)
        return model, take_in(chain.stream, batch, chain.contract, model, chain.stream.cache)

    model, intake = taken("b1", None)
    start, prior = start_of(chain.stream, intake, model, None, 1.0, tiny.generator())
    spec = spec_of(chain.stream, chain.contract)
    assert (spec.methods["lora"]["rank"], spec.methods["lora"]["alpha"]) == (3, 6.0)
    expected = state_from_peft(chain.stream.home / "lora", spec, variant_of(chain.stream))
    texts = ["a lovely film", "a dreadful book for me"]
    found = Predictor(model, start).probabilities(texts, 0)
    other = Predictor(model, expected).probabilities(texts, 0)
    np.testing.assert_allclose(found, other, atol=1e-6)
    assert torch.equal(prior.mean, start.posterior.mean)
    assert float(prior.mean.abs().max()) > 0.1

    first = train(chain.stream, intake, model, None).state
    shutil.rmtree(chain.stream.home / "lora")
    model, intake = taken("b2", first)
    assert len(train(chain.stream, intake, model, first).state.spec.absorbed) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bh_peft", "point"])
def test_a_checkpoint_is_version_1_as_it_is_and_the_next_round_goes_on_from_it(
    chain: Chain, name: str
) -> None:
    """Nothing is trained; a posterior gets the σ that the selection rows like."""
    data = chain.stream.data.model_copy(update={"selection": 0.3})
    chain = chain.changed(data=data).with_learning(start_as="version", variant=name)
    outcome = chain.learn(chain.deliver("b3", day=1))
    assert (outcome.version, outcome.metrics["training/steps"]) == (1, 0.0)
    given = state_from_peft(
        chain.stream.home / "lora", spec_of(chain.stream, chain.contract), variant_of(chain.stream)
    )
    texts = ["a lovely film", "a dreadful book for me"]
    predictor = Predictor.load(chain._files(1))
    expected = Predictor(predictor.model, given).probabilities(texts, 0)
    np.testing.assert_allclose(predictor.probabilities(texts, 0), expected, atol=1e-6)
    first = predictor.state
    own = [n for n in first.precision if n.endswith("lora.b")]
    assert all(float(first.precision[n].max()) > 0 for n in own)
    if name == "bh_peft":
        assert float(first.posterior.std.max()) <= float(first.prior.std.max()) * 1.0001
        assert len(predictor.probabilities(texts, 3)) == 3
    outcome = chain.learn(chain.deliver("b4", day=2))
    assert outcome.metrics["training/steps"] > 0
    second = chain.state(2)
    assert [one.batch_id for one in second.spec.absorbed] == ["b3", "b4"]


def test_a_checkpoint_without_our_head_cannot_be_a_version_as_it_is(chain: Chain) -> None:
    (chain.stream.home / "lora" / "head.safetensors").unlink()
    batch = open_batch(chain.stream.landing / chain.stream.name / "b1")
    stream = chain.with_learning(start_as="version").stream
    model = model_of(stream, chain.contract, None)
    intake = take_in(stream, batch, chain.contract, model, stream.cache)
    with pytest.raises(CheckpointError, match=r"nothing for head.weight.*start_as = \"prior\""):
        train(stream, intake, model, None)


def test_a_start_that_is_no_checkpoint_is_a_clear_error(chain: Chain) -> None:
    stream = chain.with_learning(start=Path("nowhere")).stream
    with pytest.raises(CheckpointError, match=r"adapter_config.json.*cannot be read"):
        model_of(stream, chain.contract, None)

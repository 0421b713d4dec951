from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from bhpeft.errors import ConfigError, UnsupportedModel
from bhpeft.methods import LoRA, ParallelAdapter, Prefix, architecture_of
from bhpeft.methods.attention import use_attention
from bhpeft.models import measured
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import MEASURED, PLAIN, Arithmetic, fastest, in_words, settle
from bhpeft.models.trial_step import SECONDS, step_seconds
from tests import tiny

CPU = torch.device("cpu")
PLAIN_BF16 = Arithmetic("bfloat16", "sdpa")
FAST = Arithmetic("bfloat16", "explicit")


@pytest.fixture(autouse=True)
def nothing_measured_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "KEPT", {})


def test_what_is_said_outright_is_not_measured(tmp_path: Path) -> None:
    found = settle(FAST, tiny.bert().config, "f", CPU, tmp_path)
    assert found == FAST
    assert list(tmp_path.iterdir()) == []


def test_what_is_said_for_one_of_two_is_kept(tmp_path: Path) -> None:
    """The other is measured beside it."""
    config = tiny.bert().config
    assert settle(Arithmetic("bfloat16", "auto"), config, "f", CPU, tmp_path).dtype == "bfloat16"
    assert settle(Arithmetic("auto", "explicit"), config, "f", CPU, tmp_path).settled


def test_a_measurement_is_made_once_a_model_and_machine(tmp_path: Path) -> None:
    """The second asking reads the file, in this process and in another."""
    config = tiny.bert().config
    found = settle(MEASURED, config, "f", CPU, tmp_path)
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"dtype": found.dtype, "attention": found.attention}
    other = PLAIN_BF16 if found != PLAIN_BF16 else PLAIN
    path.write_text(json.dumps({"dtype": other.dtype, "attention": other.attention}))
    assert settle(MEASURED, config, "f", CPU, tmp_path) == found
    measured.KEPT.clear()
    assert settle(MEASURED, config, "f", CPU, tmp_path) == other
    settle(MEASURED, config, "another model", CPU, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("native", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_computes_in_bfloat16_where_it_has_units_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native: bool, dtype: str
) -> None:
    """Emulated it would be slower than float32; nothing is measured, and what is said is kept."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    config, cuda = tiny.bert().config, torch.device("cuda")
    assert settle(MEASURED, config, "f", cuda, tmp_path) == Arithmetic(dtype, "sdpa")
    said = Arithmetic("float32", "auto")
    assert settle(said, config, "f", cuda, tmp_path) == PLAIN
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", '{"dtype": "float8", "attention": "sdpa"}'])
def test_a_spoilt_file_is_measured_again(tmp_path: Path, content: str) -> None:
    config = tiny.bert().config
    settle(MEASURED, config, "f", CPU, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    measured.KEPT.clear()
    assert settle(MEASURED, config, "f", CPU, tmp_path).settled
    assert set(json.loads(path.read_text())) == {"dtype", "attention"}


def test_a_folder_that_cannot_be_written_costs_a_measurement_only(tmp_path: Path) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    assert settle(MEASURED, tiny.bert().config, "f", CPU, blocked).settled


def test_other_than_plain_has_to_be_a_fifth_faster() -> None:
    """A choice that hangs on noise would be another one on the next day."""
    assert fastest({PLAIN: 1.0, FAST: 0.9}) == PLAIN
    assert fastest({PLAIN: 1.0, PLAIN_BF16: 0.8, FAST: 0.5}) == FAST
    assert fastest({FAST: 1.0}) == FAST


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_can_be_measured(family: str) -> None:
    """Within the time allowed, and without touching the generator everybody shares."""
    before = torch.random.get_rng_state()
    times = step_seconds(tiny.FAMILIES[family]().config, [PLAIN, FAST])
    assert set(times) == {PLAIN, FAST}
    assert all(0 < seconds < SECONDS for seconds in times.values())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_with_attention_of_its_own_is_measured_in_what_it_can() -> None:
    """DeBERTa-v2 has no explicit attention to choose; asked for outright, that is an error."""
    config = tiny.deberta().config
    assert set(step_seconds(config, [PLAIN, FAST])) == {PLAIN}
    with pytest.raises(UnsupportedModel, match="cannot attend as asked"):
        step_seconds(config, [FAST])


def test_an_unknown_dtype_is_named() -> None:
    with pytest.raises(ConfigError, match="no dtype 'bfloat'"):
        Arithmetic("bfloat", "sdpa")


def adapted(family: str, chosen: Arithmetic) -> AdaptedModel:
    base = tiny.base(family)
    base.model.to(chosen.torch_dtype)
    use_attention(base.model, architecture_of(base.model), chosen.attention)
    methods = [LoRA(rank=2), ParallelAdapter(bottleneck=3), Prefix(length=2)]
    return AdaptedModel(base, methods, 2, generator=tiny.generator())


@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_state_means_the_same_in_either_dtype(family: str, draws: int | None) -> None:
    """Weights stay float32, start alike, and give the same class probabilities to a few 2^-8."""
    plain, fast = adapted(family, PLAIN), adapted(family, FAST)
    assert in_words(fast.model) == {"dtype": "bfloat16", "attention": "explicit"}
    for name, tensor in fast.sites.values().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, plain.sites.values()[name])
    weights = tiny.draw(plain.shapes, draws, std=0.1)
    found = []
    for model in (plain, fast):
        with torch.no_grad(), model.swapped(weights):
            logits = model.logits(tiny.minibatch())
        assert logits.dtype == torch.float32
        found.append(logits.softmax(-1))
    torch.testing.assert_close(found[1], found[0], atol=0.03, rtol=0)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradients_in_bfloat16_point_where_float32_ones_do(family: str, checkpointed: bool) -> None:
    """float32 gradients of float32 weights, at an angle whose cosine is above 0.99."""
    flat = []
    for chosen in (PLAIN, FAST):
        model = adapted(family, chosen)
        drawn = tiny.draw(model.shapes, std=0.1)
        weights = {name: tensor.requires_grad_() for name, tensor in drawn.items()}
        scope = model.checkpointed() if checkpointed else nullcontext()
        with scope, model.swapped(weights):
            logits = model.logits(tiny.minibatch())
            cross_entropy(logits, torch.tensor([0, 1, 0])).backward()
        gradients = [tensor.grad for tensor in weights.values()]
        assert {g.dtype for g in gradients if g is not None} == {torch.float32}
        flat.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    assert torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0) > 0.99

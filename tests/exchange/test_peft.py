"""Only this module imports peft, which takes seconds; it is the judge of what we write and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from bhpeft.errors import CheckpointError
from bhpeft.exchange import export_peft, import_lora, state_from_peft
from bhpeft.exchange.checkpoint import STARTS, UNSUPPORTED
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.members import with_members
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import BH_PEFT, ENSEMBLE, VARIANTS, Variant
from bhpeft.methods import ARCHITECTURES
from bhpeft.models.encode import collate
from bhpeft.models.pooling import POOLINGS
from bhpeft.posterior import unflatten
from tests import tiny
from tests.learning import problems

TEXTS = ["w4 w5 w6 w7", "w60", "w30 w8"]
LORAS: list[dict[str, Any]] = [
    {},
    {"layers": 1},
    {"layers": (0,), "alpha": 3.0},
]
TARGETS = {"bert": ("dense",), "llama": ("mlp.down_proj", "o_proj"), "gpt2": ("c_proj",)}

# peft 0.21 asks transformers 5.23 by a name that is going away.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny base models, as Hugging Face folders."""
    folders = {family: tmp_path_factory.mktemp(family) for family in tiny.FAMILIES}
    for family, folder in folders.items():
        tiny.FAMILIES[family]().save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
    return folders


def spec_on(base: Path, **lora: Any) -> Spec:
    return replace(problems.spec(), base=str(base), methods={"lora": {"rank": 2, **lora}})


def learned(base: Path, variant: Variant = BH_PEFT, **lora: Any) -> AdapterState:
    """Return a state as a round leaves it, with no weight at its start."""
    spec = replace(
        spec_on(base, parameterisation=variant.parameterisation, **lora),
        variant=variant.name, scale=variant.scale, dropout=dict(variant.dropout),
    )  # fmt: skip
    model = build_model(spec)
    state = first_state(model, spec, variant, [], tiny.generator())
    return problems.later(with_members(state, model, variant))


def served(base: Path, folder: Path) -> Tensor:
    """Return the logits of somebody who has the checkpoint, peft and our head's two tensors."""
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder).eval()
    minibatch = collate(tiny.tokenizer(), TEXTS, 16)
    head = load_file(folder / "head.safetensors")
    pooling = json.loads((folder / "classifier.json").read_text())["pooling"]
    with torch.no_grad():
        hidden = model(**minibatch).last_hidden_state
    pooled = POOLINGS[pooling](hidden, minibatch["attention_mask"])
    return pooled @ head["weight"].T + head["bias"]


def ours(state: AdapterState, draws: int = 0) -> Tensor:
    predictor = Predictor(build_model(state.spec), state)
    with torch.no_grad(), predictor.model.swapped(predictor.weights(draws)):
        return predictor.model.logits(predictor.encode(TEXTS))


@pytest.mark.parametrize("lora", LORAS, ids=str)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_peft_loads_an_export_with_our_logits(
    bases: dict[str, Path], tmp_path: Path, family: str, lora: dict[str, Any]
) -> None:
    """The posterior's mean, on every architecture, for all layers and for some."""
    state = learned(bases[family], **lora)
    export_peft(state, tmp_path)
    torch.testing.assert_close(served(bases[family], tmp_path), ours(state), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", TARGETS)
def test_targets_that_end_alike_are_told_apart(
    bases: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """BERT's pooler is a `dense` too, and is not ours."""
    state = learned(bases[family], target_modules=TARGETS[family])
    export_peft(state, tmp_path)
    torch.testing.assert_close(served(bases[family], tmp_path), ours(state), atol=1e-5, rtol=1e-5)


def test_every_draw_is_a_checkpoint_and_their_mean_is_the_prediction(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """Serving S checkpoints and averaging their probabilities is the posterior predictive."""
    state = learned(bases["bert"])
    export_peft(state, tmp_path, draws=3)
    logits = [served(bases["bert"], tmp_path / f"draw-{s}") for s in range(3)]
    torch.testing.assert_close(torch.cat(logits), ours(state, 3), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)
    expected = Predictor(build_model(state.spec), state).probabilities(TEXTS, draws=3)
    np.testing.assert_allclose(torch.stack(logits).double().softmax(-1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        # The paper's preset has no LoRA.
        *((name, "bert") for name in sorted(set(VARIANTS) - {"bh_peft_paper"})),
        *(("bh_peft_core", "gpt2"), ("mc_dropout", "llama"), ("ensemble", "gpt2")),
    ],
)
def test_every_variant_of_lora_is_served_as_we_predict(
    bases: dict[str, Path], tmp_path: Path, name: str, family: str
) -> None:
    """The mean, and each draw there is: a Gaussian's, a mask's or a member of an ensemble."""
    cold = {"temperature": 1.7} if name == "temperature" else {}
    state = learned(bases[family], VARIANTS[name]).with_spec(**cold)
    draws = 2 if state.most_draws != 0 else 0
    export_peft(state, tmp_path, draws)
    predictor = Predictor(build_model(state.spec), state)
    found = served(bases[family], tmp_path).double().softmax(-1)[None]
    np.testing.assert_allclose(found, predictor.probabilities(TEXTS, 0), atol=1e-5)
    if draws:
        each = [served(bases[family], tmp_path / f"draw-{s}") for s in range(draws)]
        found = torch.stack(each).double().softmax(-1)
        np.testing.assert_allclose(found, predictor.probabilities(TEXTS, draws), atol=1e-5)
        assert not torch.allclose(each[0], each[1], atol=1e-4)


def test_what_a_language_model_answers_itself_is_served_by_the_language_model(
    tmp_path: Path,
) -> None:
    """A choice has no head of ours: the checkpoint adapts AutoModelForCausalLM."""
    config = tiny.llama_config()
    config.tie_word_embeddings = True
    tiny.seeded(LlamaForCausalLM, config).save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    words = ("w5", "w9")
    spec = replace(spec_on(tmp_path / "base"), task="choice", labels=words)
    model = build_model(spec)
    state = problems.later(first_state(model, spec, BH_PEFT, [], tiny.generator()))
    folder = export_peft(state, tmp_path / "served", draws=2)
    assert not (folder / "head.safetensors").exists()
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(own, folder / "draw-1").eval()
    minibatch = collate(tiny.tokenizer(), TEXTS, 16)
    with torch.no_grad():
        logits = theirs(**minibatch).logits
    last = minibatch["attention_mask"].sum(1) - 1
    words_at = [tiny.tokenizer().convert_tokens_to_ids(word) for word in words]
    found = logits[torch.arange(len(TEXTS)), last][:, words_at]
    weights = Predictor(model, state).weights(2)
    with torch.no_grad(), model.swapped(weights):
        expected = model.logits(minibatch).unflatten(0, (2, len(TEXTS)))[1]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES.keys() & PEFT_TARGETS.keys()))
def test_the_default_targets_are_those_peft_takes(kind: str) -> None:
    """By Hugging Face's names: what a user of peft expects where nothing is said."""
    assert list(ARCHITECTURES[kind].target_modules) == PEFT_TARGETS[kind]


def test_more_draws_than_an_ensemble_has_members_are_refused(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    state = learned(bases["bert"], ENSEMBLE)
    with pytest.raises(CheckpointError, match=r"ensemble of 3 has no more draws.*found 4"):
        export_peft(state, tmp_path, draws=4)


def test_an_export_imports_as_the_weights_it_came_from(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """There and back is the identity, head included."""
    state = learned(bases["llama"], layers=(1,))
    again = state_from_peft(export_peft(state, tmp_path), spec_on(bases["llama"]), BH_PEFT)
    by_path = {".q_proj.": ".self_attn.q_proj.", ".v_proj.": ".self_attn.v_proj."}

    def renamed(name: str) -> str:
        for short, path in by_path.items():
            name = name.replace(short, path)
        return name

    expected = {**unflatten(state.posterior.mean, state.posterior.shapes), **state.point}
    found = {**unflatten(again.posterior.mean, again.posterior.shapes), **again.point}
    assert found.keys() == {renamed(name) for name in expected}
    assert all(torch.equal(found[renamed(name)], tensor) for name, tensor in expected.items())
    torch.testing.assert_close(ours(again), ours(state))


def checkpoint(base: PreTrainedModel, folder: Path, **options: Any) -> PeftModel:
    """Return and save a peft model whose every trainable weight is random."""
    with torch.random.fork_rng(devices=[]):
        model = get_peft_model(base, LoraConfig(**{"r": 3, "lora_alpha": 5, **options})).eval()
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bert", {"target_modules": ["query", "value"]}),
        ("bert", {"target_modules": ["key", "output.dense"], "layers_to_transform": [1]}),
        ("roberta", {"target_modules": r".*layer\.\d+\.(attention\.)?(output|self)\.(key|dense)"}),
        ("distilbert", {"target_modules": ["q_lin", "lin1"]}),
        ("modernbert", {"target_modules": ["Wqkv", "mlp.Wo"]}),
        ("llama", {"target_modules": "all-linear"}),
        ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    ],
)
def test_what_peft_saved_computes_the_same_hidden_states_here(
    bases: dict[str, Path], tmp_path: Path, family: str, options: dict[str, Any]
) -> None:
    """Targets by name, by the end of a path, by a pattern; on all layers and on some."""
    theirs = checkpoint(AutoModel.from_pretrained(bases[family]), tmp_path, **options)
    state = state_from_peft(tmp_path, spec_on(bases[family]), BH_PEFT)
    predictor = Predictor(build_model(state.spec), state)
    minibatch = predictor.encode(TEXTS)
    with torch.no_grad(), predictor.model.swapped(predictor.weights(0)):
        found = predictor.model.model(**minibatch).last_hidden_state
        expected = theirs(**minibatch).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_is_the_mean_of_posterior_and_prior_and_the_widths_are_the_variants(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """As for any stream: 0.1 wide, starting at 0.02; the state saves, loads and predicts."""
    checkpoint(AutoModel.from_pretrained(bases["bert"]), tmp_path, target_modules=["query"])
    state = state_from_peft(tmp_path, spec_on(bases["bert"]), BH_PEFT)
    weights = import_lora(tmp_path).weights
    for name, mean in unflatten(state.posterior.mean, state.posterior.shapes).items():
        assert torch.equal(mean, weights[name]), name
    assert torch.equal(state.prior.mean, state.posterior.mean)
    torch.testing.assert_close(state.prior.std, torch.full_like(state.prior.std, 0.1))
    torch.testing.assert_close(state.posterior.std, torch.full_like(state.prior.std, 0.02))
    assert torch.equal(state.point["0.query.lora.b"], weights["0.query.lora.b"])
    frame = Predictor.load(state.save(tmp_path / "state")).predict(TEXTS)
    assert len(frame) == 3


def test_another_methods_weights_start_as_they_always_do(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """A checkpoint knows nothing of the adapter beside it: its prior stays centred on zero."""
    checkpoint(AutoModel.from_pretrained(bases["bert"]), tmp_path, target_modules=["query"])
    both = replace(
        spec_on(bases["bert"]), methods={"lora": {"rank": 2}, "adapter": {"bottleneck": 3}}
    )
    state = state_from_peft(tmp_path, both, BH_PEFT)
    centre = unflatten(state.prior.mean, state.prior.shapes)
    assert bool((centre["0.ffn.adapter.down"] == 0).all())
    assert bool((centre["0.query.lora.a"] != 0).all())


def test_a_decoders_score_is_our_head(bases: dict[str, Path], tmp_path: Path) -> None:
    """Llama's classifier is linear on the last token, as ours is: the logits are the same."""
    base = tiny.seeded(LlamaForSequenceClassification, tiny.llama_config())
    base.model.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    theirs = checkpoint(base, tmp_path / "lora", task_type="SEQ_CLS", target_modules=["q_proj"])
    state = state_from_peft(tmp_path / "lora", spec_on(tmp_path / "base"), BH_PEFT)
    with torch.no_grad():
        expected = theirs(**collate(tiny.tokenizer(), TEXTS, 16)).logits
    torch.testing.assert_close(ours(state), expected, atol=1e-5, rtol=1e-5)


def stored(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    whole = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(
        json.dumps({**whole, "bias": "none", "init_lora_weights": True, **config})
    )
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    "content",
    [
        {"peft_type": "IA3"},
        {"bias": "lora_only"},
        {"init_lora_weights": "pissa"},
        {"modules_to_save": ["classifier", "pooler"]},
        *({key: {"query": 4} if key.endswith("pattern") else True} for key in UNSUPPORTED),
    ],
    ids=str,
)
def test_what_is_more_than_a_lora_is_refused_by_name(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    """Reading it as a plain LoRA would compute something else, and nobody would notice."""
    with pytest.raises(CheckpointError, match=f"a plain LoRA; found {next(iter(content))} = "):
        import_lora(stored(tmp_path, content, {}))


def test_the_settings_we_refuse_are_pefts_own() -> None:
    """A name that peft gave up would guard against nothing."""
    known = LoraConfig().to_dict()
    assert [name for name in UNSUPPORTED if name not in known] == []
    assert known["init_lora_weights"] in STARTS


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("base_model.model.pooler.dense.lora_A.weight", "outside of the model's layers"),
        ("base_model.model.encoder.norm.weight", "neither LoRA's nor a head's"),
    ],
)
def test_a_tensor_with_no_place_is_named(tmp_path: Path, key: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{says}.*{key}"):
        import_lora(stored(tmp_path, {}, {key: torch.zeros(2, 2)}))


def test_an_encoders_classifier_is_left_out_and_named(tmp_path: Path) -> None:
    """It reads a pooler's output, not pooled hidden states."""
    key = "base_model.model.classifier.weight"
    found = import_lora(stored(tmp_path, {}, {key: torch.zeros(2, 32)}))
    assert found.left_out == (key,)
    assert "head.weight" not in found.weights


def test_a_checkpoint_of_another_model_is_named(bases: dict[str, Path], tmp_path: Path) -> None:
    wide = {
        f"base_model.model.encoder.layer.{i}.attention.self.query.lora_{s}.weight": torch.zeros(
            shape
        )
        for i in (0, 1)
        for s, shape in (("A", (2, 64)), ("B", (64, 2)))
    }
    folder = stored(tmp_path, {}, wide)
    with pytest.raises(CheckpointError, match=r"fit the base model at '0\.query\.lora\.a'.*\(2, "):
        state_from_peft(folder, spec_on(bases["bert"]), BH_PEFT)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter_config\.json .*cannot be read"):
        import_lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="a JSON list"):
        import_lora(tmp_path)
    stored(tmp_path, {}, {})
    (tmp_path / "adapter_model.safetensors").write_text("no")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors .*cannot be read"):
        import_lora(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="as a pickle"):
        import_lora(tmp_path)


@pytest.mark.parametrize(
    ("changes", "draws", "says"),
    [
        ({"methods": {"lora": {}, "prefix": {}}}, 0, "Only LoRA.*found lora, prefix"),
        ({"layers": 1}, 0, "cut short.*layers = 1"),
    ],
)
def test_a_state_that_is_no_lora_checkpoint_is_refused(
    bases: dict[str, Path], tmp_path: Path, changes: dict[str, Any], draws: int, says: str
) -> None:
    state = learned(bases["bert"]).with_spec(**changes)
    with pytest.raises(CheckpointError, match=says):
        export_peft(state, tmp_path / "out", draws)
    assert not (tmp_path / "out").exists()


def test_a_point_estimate_has_no_draws_to_export(bases: dict[str, Path], tmp_path: Path) -> None:
    spec = spec_on(bases["bert"])
    state = first_state(build_model(spec), spec, BH_PEFT.point(), [], tiny.generator())
    with pytest.raises(CheckpointError, match="point estimate has no draws"):
        export_peft(state, tmp_path, draws=2)

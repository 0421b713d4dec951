from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bhpeft.errors import BaseModelMismatch, StateError
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import Absorbed, AdapterState, Spec, gauge_of, layout
from bhpeft.learning.variants import BH_PEFT
from tests.learning import problems

ALL = ("lora", "adapter", "prefix")
NAME = "0.query.lora.a"


@pytest.fixture
def state() -> AdapterState:
    """A state as a round leaves it, of all three methods."""
    learned = problems.later(problems.start(problems.model(ALL), ALL))
    batches = (Absorbed("b1", "ab" * 32, 70), Absorbed("b2", "cd" * 32, 12))
    return learned.with_spec(absorbed=batches, abstain_above=0.123456789012345)


@pytest.fixture
def folder(state: AdapterState, tmp_path: Path) -> Path:
    return state.save(tmp_path / "state")


def tensors_of(state: AdapterState) -> dict[str, Tensor]:
    q, prior = state.posterior, state.prior
    flat = {"mean": q.mean, "rho": q.rho, "prior mean": prior.mean, "prior rho": prior.rho}
    point = {f"point {name}": value for name, value in state.point.items()}
    return flat | point | {f"precision {name}": value for name, value in state.precision.items()}


def edited(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the stored tensors, as a wrong tool or a flipped bit would."""
    path = folder / "posterior.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def respecced(folder: Path, **changes: object) -> None:
    path = folder / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_save_then_load_is_bit_exact(state: AdapterState, folder: Path) -> None:
    """Every tensor, its name and its order, and every word of the spec."""
    again = AdapterState.load(folder)
    for name, tensor in tensors_of(state).items():
        assert torch.equal(tensors_of(again)[name], tensor), name
    assert list(again.posterior.shapes.items()) == list(state.posterior.shapes.items())
    assert list(again.point) == list(state.point)
    assert again.spec == state.spec


def test_predictions_survive_saving_bit_by_bit(state: AdapterState, folder: Path) -> None:
    """The fixed draws are cut out of one long vector: the layout is part of the version."""
    texts = problems.texts(7)
    before = Predictor(problems.model(ALL), state).probabilities(texts)
    after = Predictor(problems.model(ALL), AdapterState.load(folder)).probabilities(texts)
    assert (before == after).all()


def test_saving_twice_writes_the_same_bytes(state: AdapterState, tmp_path: Path) -> None:
    """A version's checksums are those of its content."""
    one, two = state.save(tmp_path / "one"), AdapterState.load(tmp_path / "one")
    two.save(tmp_path / "two")
    for path in one.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_state_folder_holds_safetensors_and_json_and_nothing_else(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"posterior.safetensors", "spec.json"}
    assert json.loads((folder / "spec.json").read_text())["format"] == 1
    load_file(folder / "posterior.safetensors")


def test_a_point_estimate_is_saved_with_no_gaussian_weight(tmp_path: Path) -> None:
    state = problems.start(problems.model(), variant=BH_PEFT.point())
    again = AdapterState.load(state.save(tmp_path))
    assert again.posterior.size == 0
    assert again.point.keys() == state.point.keys()


def test_the_layout_is_in_the_order_of_names_whatever_the_order_of_the_file(folder: Path) -> None:
    """A safetensors file may list tensors in any order."""
    before = AdapterState.load(folder)
    path = folder / "posterior.safetensors"
    save_file(dict(reversed(list(load_file(path).items()))), path)
    after = AdapterState.load(folder)
    assert list(after.posterior.shapes) == sorted(after.posterior.shapes)
    assert torch.equal(after.posterior.mean, before.posterior.mean)


GROUPS = ("mean", "rho", "prior_mean", "prior_rho", "precision")


@pytest.mark.parametrize("group", GROUPS)
def test_a_missing_tensor_is_an_error_that_names_its_parameter(folder: Path, group: str) -> None:
    name = "head.weight" if group == "precision" else NAME
    edited(folder, lambda tensors: tensors.pop(f"{group}/{name}"))
    with pytest.raises(StateError, match=name):
        AdapterState.load(folder)


@pytest.mark.parametrize("group", GROUPS)
def test_a_misshapen_tensor_is_an_error_that_names_its_parameter(folder: Path, group: str) -> None:
    name = "head.weight" if group == "precision" else NAME
    key = f"{group}/{name}"
    edited(folder, lambda tensors: tensors.update({key: tensors[key].flatten()[:-1].clone()}))
    with pytest.raises(StateError, match=f"{name}.*expected shape"):
        AdapterState.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("group", [*GROUPS, "point"])
def test_a_tensor_that_is_not_finite_is_an_error_that_names_its_parameter(
    folder: Path, group: str, value: float
) -> None:
    name = "head.weight" if group in ("precision", "point") else NAME

    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[f"{group}/{name}"].view(-1)[1] = value

    edited(folder, spoil)
    with pytest.raises(StateError, match=f"{name}.*not finite.*{group}/"):
        AdapterState.load(folder)


@pytest.mark.parametrize("key", ["variance/0.query.lora.a", "stray", "mean/9.query.lora.a"])
def test_an_extra_tensor_is_an_error_that_names_it(folder: Path, key: str) -> None:
    edited(folder, lambda tensors: tensors.update({key: torch.zeros(2, 32)}))
    with pytest.raises(StateError, match=key.partition("/")[2] or key):
        AdapterState.load(folder)


def test_a_parameter_missing_everywhere_is_found_when_the_model_is_there(
    state: AdapterState, folder: Path
) -> None:
    """The file alone is consistent then; the model's own layout tells."""

    def forget(tensors: dict[str, Tensor]) -> None:
        for group in ("mean", "rho", "prior_mean", "prior_rho"):
            del tensors[f"{group}/{NAME}"]

    edited(folder, forget)
    with pytest.raises(StateError, match=f"no stored of {NAME}"):
        AdapterState.load(folder).check_layout(problems.model(ALL).shapes)
    state.check_layout(problems.model(ALL).shapes)


def test_another_rank_is_an_error_that_names_the_first_parameter(state: AdapterState) -> None:
    shapes = {**problems.model(ALL).shapes, NAME: (5, 32)}
    with pytest.raises(StateError, match=rf"{NAME}.*\(2, 32\).*expected shape \(5, 32\)"):
        state.check_layout(shapes)


@pytest.mark.parametrize("name", ["posterior.safetensors", "spec.json"])
def test_a_truncated_file_is_an_error_that_names_the_file(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StateError, match=name):
        AdapterState.load(folder)


@pytest.mark.parametrize("name", ["posterior.safetensors", "spec.json"])
def test_a_missing_file_is_an_error_that_names_the_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StateError, match=name):
        AdapterState.load(folder)


@pytest.mark.parametrize("text", ["", "not JSON", "[]", "3", '"spec"', "null", "{}"])
def test_a_spec_that_is_not_a_spec_is_a_named_error(folder: Path, text: str) -> None:
    (folder / "spec.json").write_text(text)
    with pytest.raises(StateError):
        AdapterState.load(folder)


def test_a_spec_of_another_format_says_which_one_it_is(folder: Path) -> None:
    respecced(folder, format=2)
    with pytest.raises(StateError, match="found format 2; expected format 1"):
        AdapterState.load(folder)


@pytest.mark.parametrize("change", [{"labels": 3}, {"absorbed": [{"batch": 1}]}, {"new": 1}])
def test_a_spec_with_fields_that_do_not_fit_is_a_named_error(
    folder: Path, change: dict[str, object]
) -> None:
    respecced(folder, **change)
    with pytest.raises(StateError, match=r"spec\.json"):
        AdapterState.load(folder)


def test_a_spec_lacking_a_field_names_it(folder: Path) -> None:
    path = folder / "spec.json"
    fields = json.loads(path.read_text())
    del fields["gauge"]
    path.write_text(json.dumps(fields))
    with pytest.raises(StateError, match="gauge"):
        AdapterState.load(folder)


def test_a_base_model_with_other_weights_is_refused_with_both_fingerprints(
    state: AdapterState,
) -> None:
    known = state.spec.fingerprint
    state.check_base(known)
    with pytest.raises(BaseModelMismatch, match=f"found weights 0123456789ab.*{known[:12]}"):
        state.check_base("0123456789abcdef")


def test_labels_that_look_like_other_things_come_back_as_the_texts_they_are(
    state: AdapterState, tmp_path: Path
) -> None:
    labels = ("1", "null", "2020-01-01", "schön 🙂")
    again = AdapterState.load(state.with_spec(labels=labels).save(tmp_path / "labels"))
    assert again.spec.labels == labels


def test_a_state_from_before_there_were_tasks_is_a_classifier(
    state: AdapterState, tmp_path: Path
) -> None:
    """Chains go on: what an older bhpeft wrote lacks fields and means what it always did."""
    folder = state.save(tmp_path / "old")
    told = json.loads((folder / "spec.json").read_text())
    del told["task_settings"]
    (folder / "spec.json").write_text(json.dumps(told))
    again = AdapterState.load(folder)
    assert again.spec == state.spec
    assert again.spec.predicted.name == "classification"


def test_the_gauge_names_the_factors_and_the_base_a_chain_started_from() -> None:
    """Another B, another name or another base is another set of coordinates."""
    weights = {"a": torch.ones(2, 3), "b": torch.zeros(3)}
    gauge = gauge_of("base", weights)
    assert gauge == gauge_of("base", {name: weights[name].clone() for name in ("b", "a")})
    nearly = {**weights, "a": torch.full((2, 3), 1 + 2**-23)}
    others = [gauge_of("other", weights), gauge_of("base", nearly)]
    others.append(gauge_of("base", {"a": weights["a"], "c": weights["b"]}))
    assert len({gauge, *others}) == 4


def test_two_chains_of_one_stream_file_share_a_gauge_and_another_seed_has_its_own() -> None:
    def of(seed: int) -> str:
        model = problems.model(seed=seed)
        return problems.start(model).spec.gauge

    assert of(3) == of(3) != of(4)


def test_the_layout_follows_names_and_not_insertion() -> None:
    assert list(layout({"b": torch.ones(2), "a": torch.ones(1, 3)}).items()) == [
        ("a", (1, 3)),
        ("b", (2,)),
    ]


def test_a_spec_is_frozen_and_changes_make_a_new_one(state: AdapterState) -> None:
    changed = state.with_spec(draws=9)
    assert (changed.spec.draws, state.spec.draws) == (9, 4)
    assert replace(changed.spec, draws=4) == state.spec
    assert isinstance(changed.spec, Spec)

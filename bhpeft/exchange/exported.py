"""Write a state as PEFT checkpoints, which `peft.PeftModel.from_pretrained` loads.

    <folder>/               the posterior's mean
    <folder>/draw-0/ …      as many of the version's fixed draws as asked for

Each adapts the bare base model (`AutoModel`), so that its hidden states are ours. Our head is a
linear map of pooled hidden states, which is no Hugging Face head: it lies beside, with the pooling
and the labels it needs.

    hidden = PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)(**tokens)[0]
    logits = pooled(hidden) @ head["weight"].T + head["bias"]

A temperature is divided into the head. A task that the language model itself answers has no head of
ours: its checkpoint adapts `AutoModelForCausalLM`, whose logits are the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bhpeft.errors import CheckpointError
from bhpeft.exchange.checkpoint import PREFIX, Checkpoint, write_checkpoint
from bhpeft.learning.build import build_model
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.methods import architecture_of, method
from bhpeft.methods.lora import LoRALinear
from bhpeft.models.adapted import AdaptedModel


def export_peft(state: AdapterState, folder: Path, draws: int = 0) -> Path:
    """Write the posterior mean into `folder`, and `draws` of its draws into folders within.

    Args:
        state: of LoRA alone, on a whole base model.
        folder: is made where it is not there; files of the same names are replaced.
        draws: how many of the fixed draws of a prediction with as many; 0 for the mean alone.

    Returns:
        The folder.

    Raises:
        CheckpointError: the state is more than a LoRA, or has nothing to draw.
        ModelError: its base model cannot be loaded.
        BaseModelMismatch: it is not the one the state was learned on.
    """
    _check_exchangeable(state, draws)
    model = build_model(state.spec)
    state.check_base(model.base.fingerprint)
    state.check_layout(model.shapes)
    predictor = Predictor(model, state)
    config, classifier = _config(model, state), _classifier(state)
    write_checkpoint(_checkpoint(model, config, predictor.weights(0), state), classifier, folder)
    drawn = predictor.weights(draws) if draws else {}
    for s in range(draws):
        one = {name: t[s] if t.ndim > len(model.shapes[name]) else t for name, t in drawn.items()}
        write_checkpoint(_checkpoint(model, config, one, state), classifier, folder / f"draw-{s}")
    return folder


def _check_exchangeable(state: AdapterState, draws: int) -> None:
    methods, layers = list(state.spec.methods), state.spec.layers
    if methods != ["lora"]:
        raise CheckpointError(
            "Only LoRA can be written as a PEFT LoRA checkpoint",
            found=", ".join(methods),
            expected="a state of lora alone",
            remedy='Learn a stream with methods = ["lora"] to serve it elsewhere.',
        )
    if layers is not None:
        raise CheckpointError(
            "A PEFT checkpoint cannot say that its base model is cut short",
            found=f"layers = {layers}",
            expected="a state on the whole base model",
            remedy="Learn a stream without `layers` under [model] to serve it elsewhere.",
        )
    most = state.most_draws
    if most is not None and draws > most:
        raise CheckpointError(
            f"An ensemble of {most} has no more draws" if most else "A point estimate has no draws",
            found=f"{draws} asked for",
            remedy=f"Export it with {most} draws at most." if most else "Export it without draws.",
        )


def _checkpoint(
    model: AdaptedModel,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    state: AdapterState,
) -> Checkpoint:
    tensors = {}
    stem = PREFIX if _headed(model) else f"{PREFIX}{model.model.base_model_prefix}."
    with model.swapped(weights):
        for path, module in _adapted(model).items():
            for side, factor in (("A", module.a), ("B", module.outer)):
                tensors[f"{stem}{path}.lora_{side}.weight"] = factor.detach()
    cold = state.spec.temperature
    head = {leaf: weights[name] / cold for leaf, name in _headed(model).items()}
    return Checkpoint(config, tensors, head)


def _headed(model: AdaptedModel) -> dict[str, str]:
    """Return the names of the linear head's weights by their leaf; none of a language model's."""
    leaves = ("weight", "bias")
    return {leaf: f"head.{leaf}" for leaf in leaves if f"head.{leaf}" in model.shapes}


def _config(model: AdaptedModel, state: AdapterState) -> dict[str, Any]:
    lora: Any = method("lora", state.spec.methods["lora"])
    modules = dict(model.model.named_modules())
    paths = list(_adapted(model))
    return {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION" if _headed(model) else "CAUSAL_LM",
        "base_model_name_or_path": state.spec.base,
        "revision": state.spec.revision or None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": _targets(model, modules, paths),
        "fan_in_fan_out": any(isinstance(modules[f"{path}.base"], Conv1D) for path in paths),
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _targets(model: AdaptedModel, modules: Mapping[str, nn.Module], paths: list[str]) -> list[str]:
    """Return query's and value's names where these are meant in every layer; else the paths.

    PEFT takes every module of its model that ends in a target, and its model may have more than
    ours: a `dense` is also in BERT's pooler.
    """
    names = sorted({path.rpartition(".")[2] for path in paths})
    meant = {path for path in modules if path.rpartition(".")[2] in names}
    known = set(names) <= set(architecture_of(model.model).target_modules)
    return names if known and meant == set(paths) else paths


def _adapted(model: AdaptedModel) -> dict[str, LoRALinear]:
    """Return every adapted module by where it is in the base model."""
    return {
        path: module
        for path, module in model.model.named_modules()
        if isinstance(module, LoRALinear)
    }


def _classifier(state: AdapterState) -> dict[str, Any]:
    spec = state.spec
    return {"labels": spec.labels, "pooling": spec.pooling, "max_length": spec.max_length}

"""Say what a stream's rounds learn: its variant, the spec of its state, and the model for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bhpeft.data.contract import Contract
from bhpeft.errors import StateError
from bhpeft.learning.build import build_model, check_gauge
from bhpeft.learning.grow import grow
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import Variant, variant
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import Arithmetic
from bhpeft.models.pace import Pace
from bhpeft.stream import Stream


def variant_of(stream: Stream) -> Variant:
    """Return the stream's variant with the file's λ, as a point estimate if the file says so."""
    chosen = variant(stream.learning.variant)
    if stream.learning.kl_weight is not None:
        chosen = replace(chosen, kl_weight=stream.learning.kl_weight)
    if stream.learning.estimator:
        chosen = replace(chosen, estimator=stream.learning.estimator)
    return chosen if stream.learning.gaussian else chosen.point()


def spec_of(stream: Stream, contract: Contract, parent: AdapterState | None = None) -> Spec:
    """Return the spec a round of this stream starts with.

    Raises:
        CheckpointError: the PEFT checkpoint that the stream starts from cannot be read.
    """
    chosen = variant_of(stream)
    names = stream.learning.methods or chosen.methods
    methods = {name: _settings(stream, name) for name in names}
    if stream.start is not None:
        methods["lora"] = _started(stream.start, parent)
    return Spec(
        base=stream.model.base,
        revision=stream.model.revision,
        fingerprint="",
        layers=stream.model.layers,
        task=stream.task.name,
        task_settings=dict(stream.task.settings),
        labels=contract.labels,
        pooling=stream.model.pooling,
        max_length=stream.model.max_length,
        methods=methods,
        variant=chosen.name,
        scale=chosen.scale,
        dropout=dict(chosen.dropout),
        kl_weight=chosen.kl_weight,
        forgetting=stream.learning.forgetting,
        gauge="",
        draws=stream.prediction.draws,
        seed=stream.learning.seed,
        abstain_above=float("inf"),
    )


def model_of(stream: Stream, contract: Contract, parent: AdapterState | None) -> AdaptedModel:
    """Build the stream's model, and make sure the parent's posterior can be continued on it.

    The process computes with the stream file's threads from here on, or with those measured best:
    torch knows one number for all models.

    Raises:
        BaseModelMismatch: the base model's weights are others.
        StateError: the stream file now asks for other methods, labels, λ, …
    """
    spec = spec_of(stream, contract, parent)
    if parent is not None:
        _check_continues(spec, parent.spec)
    if stream.model.threads is not None:
        torch.set_num_threads(stream.model.threads)
    said = stream.model
    pace = Pace(said.threads, said.folded_rows, said.explicit_tokens, said.laid_out)
    model = build_model(spec, Arithmetic(said.dtype, said.attention), pace, said.device)
    if parent is not None:
        parent.check_base(model.base.fingerprint)
        _refuse_change("pooling", model.pooling, parent.spec.pooling)
        grow(parent, model, contract.labels).check_layout(model.shapes)
        check_gauge(model, parent)
    return model


# What a chain may not change on the way: its posterior would mean something else.
FIXED = (
    "task",
    "task_settings",
    "methods",
    "variant",
    "scale",
    "dropout",
    "kl_weight",
    "layers",
    "max_length",
)


def _check_continues(asked: Spec, learned: Spec) -> None:
    # A version may be older than a setting: what it does not say, it has by default.
    learned = replace(learned, methods=_completed(learned.methods))
    for name in FIXED:
        _refuse_change(name, getattr(asked, name), getattr(learned, name))


def _completed(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    made: dict[str, Any] = {name: method(name, settings) for name, settings in methods.items()}
    return {name: asdict(one) for name, one in made.items()}


def _refuse_change(name: str, now: Any, then: Any) -> None:
    if _as_json(now) != _as_json(then):
        raise StateError(
            f"The stream file's {name} is not the champion's",
            found=f"{now}",
            expected=f"{then}, with which the chain was learned",
            remedy=f"Put {name} back, or start a new stream with the new value.",
        )


def _as_json(value: Any) -> str:
    # A spec comes back from JSON, where a tuple is a list.
    return json.dumps(value, sort_keys=True, default=str)


def _started(folder: Path, parent: AdapterState | None) -> dict[str, Any]:
    """Return the LoRA of the checkpoint the stream started from; later rounds do not need it."""
    if parent is not None:
        return dict(parent.spec.methods["lora"])
    from bhpeft.exchange import import_lora

    return asdict(import_lora(folder).lora)


def _settings(stream: Stream, name: str) -> dict[str, Any]:
    """Return a method's complete settings, so that the state says them even if defaults change."""
    chosen = variant(stream.learning.variant)
    settings = {**chosen.settings.get(name, {}), **stream.learning.settings_of(name)}
    made: Any = method(name, settings)
    # A prompt sits below all layers and has no choice of them.
    chooses = "layers" in asdict(made) and "layers" not in settings
    if chooses and stream.learning.adapted_layers is not None:
        made = replace(made, layers=stream.learning.adapted_layers)
    if "parameterisation" in asdict(made) and "parameterisation" not in settings:
        made = replace(made, parameterisation=chosen.parameterisation)
    return asdict(made)

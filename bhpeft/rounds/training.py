"""Train a round's candidate: prior from the parent, the fit, and what it says of the posterior."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Generator

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract
from bhpeft.errors import StateError
from bhpeft.learning.build import build_model, check_gauge, first_state
from bhpeft.learning.fit import Fitted, Task, Watch, fit
from bhpeft.learning.grow import grow
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import Absorbed, AdapterState, Spec
from bhpeft.learning.variants import Variant, variant
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import Arithmetic
from bhpeft.models.feature_table import with_features
from bhpeft.posterior import MeanField, power_prior, std_at_bounds
from bhpeft.rounds.intake import Intake
from bhpeft.stream import Stream

# σ relative to the base prior's: below the floor a weight can learn nothing new, above the ceiling
# it says less than nothing was known. Both are reported, and neither is reached in health.
STD_FLOOR, STD_CEILING = 1e-3, 2.0

# Rows on which the spread of real keys and values is measured for the prefix's first prior.
MEASURED_ROWS = 32


@dataclass(frozen=True)
class Trained:
    """A round's training, done.

    Attributes:
        state: the candidate.
        prior: what it started from.
        fitted: the curve, steps and seconds.
        health: the posterior's numbers that gates and reports look at.
    """

    state: AdapterState
    prior: MeanField
    fitted: Fitted
    health: Mapping[str, Any]


def variant_of(stream: Stream) -> Variant:
    """Return the stream's variant with the file's λ, as a point estimate if the file says so."""
    chosen = variant(stream.learning.variant)
    if stream.learning.kl_weight is not None:
        chosen = replace(chosen, kl_weight=stream.learning.kl_weight)
    if stream.learning.estimator:
        chosen = replace(chosen, estimator=stream.learning.estimator)
    return chosen if stream.learning.gaussian else chosen.point()


def spec_of(stream: Stream, contract: Contract) -> Spec:
    """Return the spec a first round of this stream starts with."""
    chosen = variant_of(stream)
    names = stream.learning.methods or chosen.methods
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
        methods={name: _settings(stream, name) for name in names},
        variant=chosen.name,
        scale=chosen.scale,
        kl_weight=chosen.kl_weight,
        forgetting=stream.learning.forgetting,
        gauge="",
        draws=stream.prediction.draws,
        seed=stream.learning.seed,
        abstain_above=float("inf"),
    )


def model_of(stream: Stream, contract: Contract, parent: AdapterState | None) -> AdaptedModel:
    """Build the stream's model, and make sure the parent's posterior can be continued on it.

    Raises:
        BaseModelMismatch: the base model's weights are others.
        StateError: the stream file now asks for other methods, labels, λ, …
    """
    spec = spec_of(stream, contract)
    if parent is not None:
        _check_continues(spec, parent.spec)
    model = build_model(spec, Arithmetic(stream.model.dtype, stream.model.attention))
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


def train(
    stream: Stream,
    intake: Intake,
    model: AdaptedModel,
    parent: AdapterState | None,
    watch: Watch | None = None,
) -> Trained:
    """Learn the batch from the parent's posterior, or from the base prior in round 0."""
    chosen = variant_of(stream)
    generator = Generator().manual_seed(_seed(stream, intake.batch))
    forgetting = stream.learning.forgetting
    if parent is None:
        spec = _in_units(spec_of(stream, intake.contract), intake)
        texts = intake.holdout[intake.contract.text].tolist()[:MEASURED_ROWS]
        start = first_state(model, spec, chosen, texts, generator)
        prior = start.prior
    else:
        prior = power_prior(parent.posterior, parent.prior, forgetting)
        # With no data the posterior must not move: the round starts at q = prior.
        start = replace(parent, posterior=prior)
    kept, limit = stream.cache / "features", stream.model.feature_cache_mb * 2**20
    with with_features(intake.train, model, kept, limit) as rows:
        task = Task(
            model=model,
            start=start,
            prior=prior,
            rows=rows,
            plan=Plan(**stream.learning.plan),
            variant=chosen,
            first=parent is None,
            forgetting=forgetting,
            predicted=start.spec.predicted,
        )
        fitted = fit(task, generator, watch)
    state = _described(fitted.state, stream, intake, chosen)
    return Trained(state, prior, fitted, _health(state, prior, fitted))


def _in_units(spec: Spec, intake: Intake) -> Spec:
    """Return the first round's spec with what its task keeps of the training rows' answers."""
    known = replace(spec, tally=tuple(intake.known.tolist()))
    return spec if known.predicted == spec.predicted else known


def _described(
    state: AdapterState, stream: Stream, intake: Intake, chosen: Variant
) -> AdapterState:
    batch = intake.batch
    absorbed = Absorbed(
        batch.batch_id, batch.digest, intake.own_rows, intake.labels, batch.contract_version
    )
    return state.with_spec(
        kl_weight=chosen.kl_weight,
        forgetting=stream.learning.forgetting,
        draws=stream.prediction.draws if state.posterior.size else 0,
        absorbed=(*state.spec.absorbed, absorbed),
    )


def _health(state: AdapterState, prior: MeanField, fitted: Fitted) -> dict[str, Any]:
    q = state.posterior
    if q.size == 0:
        return {"finite": True, "kl_nats": 0.0, "kl_by_block": {}, "rho_travel_met": None}
    width = state.prior.std
    bounds = std_at_bounds(q, STD_FLOOR * width, STD_CEILING * width)
    return {
        "finite": bool(q.mean.isfinite().all() and q.std.isfinite().all()),
        "std_ratio_median": float((q.std / width).median()),
        "std_median": float(q.std.median()),
        "share_floor": bounds.floor,
        "share_ceiling": bounds.ceiling,
        "kl_nats": float(q.kl(prior)),
        "kl_by_block": q.kl_by(prior, block_of),
        "rho_travel_met": fitted.travel_met,
    }


def block_of(name: str) -> str:
    """Return the method and layer of a weight: "3.query.lora.a" is in block "lora 3"."""
    layer, *rest = name.split(".")
    return f"{rest[-2]} {layer}" if len(rest) > 1 else layer


def _settings(stream: Stream, name: str) -> dict[str, Any]:
    """Return a method's complete settings, so that the state says them even if defaults change."""
    settings = stream.learning.settings_of(name)
    made: Any = method(name, settings)
    # A prompt sits below all layers and has no choice of them.
    chooses = "layers" in asdict(made) and "layers" not in settings
    if chooses and stream.learning.adapted_layers is not None:
        made = replace(made, layers=stream.learning.adapted_layers)
    if "parameterisation" in asdict(made) and "parameterisation" not in settings:
        made = replace(made, parameterisation=variant(stream.learning.variant).parameterisation)
    return asdict(made)


def _seed(stream: Stream, batch: Batch) -> int:
    """Return the round's seed: the same stream and batch learn the same way when run again."""
    text = f"{stream.learning.seed}/{batch.digest}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)

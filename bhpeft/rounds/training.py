"""Train a round's candidate: prior from the parent, the fit, and what it says of the posterior."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Generator

from bhpeft.data.batch import Batch
from bhpeft.learning.build import first_state, later_state
from bhpeft.learning.complete import Fit, complete, unchanged
from bhpeft.learning.finishes import Selection
from bhpeft.learning.fit import Fitted, Lesson, Watch, fit
from bhpeft.learning.members import with_members
from bhpeft.learning.plan import Plan
from bhpeft.learning.sharing import at_population, base_prior
from bhpeft.learning.state import Absorbed, AdapterState, Spec
from bhpeft.learning.variants import Variant
from bhpeft.methods import block_of
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.feature_table import with_features
from bhpeft.posterior import MeanField, std_at_bounds
from bhpeft.rounds.asked import inputs_of, options_of, targets_of
from bhpeft.rounds.forgetting import prequential, rhos
from bhpeft.rounds.intake import Intake
from bhpeft.rounds.memory import Memory
from bhpeft.rounds.population import Pinned
from bhpeft.rounds.spec import spec_of, variant_of
from bhpeft.stream import Stream

# σ relative to the base prior's: below the floor a weight can learn nothing new, above the ceiling
# it says less than nothing was known. Both are reported, and neither is reached in health.
STD_FLOOR, STD_CEILING = 1e-3, 2.0

# Rows on which the spread of real keys and values is measured for the prefix's first prior.
MEASURED_ROWS = 32

# Rows read at a time to count whose they are.
COUNTED_ROWS = 1024


@dataclass(frozen=True)
class Trained:
    """A round's training, done.

    Attributes:
        state: the candidate.
        prior: what it started from.
        fitted: the curve, steps and seconds.
        health: the posterior's numbers that gates and reports look at.
        forgetting: the drift signal and what was tried, by metric; empty where ρ is fixed.
    """

    state: AdapterState
    prior: MeanField
    fitted: Fitted
    health: Mapping[str, Any]
    forgetting: Mapping[str, float] = field(default_factory=dict)


def train(
    stream: Stream,
    intake: Intake,
    model: AdaptedModel,
    parent: AdapterState | None,
    watch: Watch | None = None,
    memory: Memory | None = None,
    pinned: Pinned | None = None,
) -> Trained:
    """Learn the batch from the parent's posterior, or from the base prior in round 0.

    Args:
        stream: the variant, the plan and the forgetting.
        intake: the batch.
        model: with the methods attached.
        parent: the champion's state.
        watch: called after each step.
        memory: the chain's frozen rows, by which an adaptive forgetting tells drift.
        pinned: the population of the stream's group, where there is one.
    """
    parent = _falling_back(parent, pinned)
    selection = _selection(stream, intake, parent)
    signal = None
    if parent is not None and memory is not None and stream.learning.adaptive is not None:
        signal = prequential(model, parent, memory, selection, intake.contract)
    tried = [
        _trained(stream, intake, model, parent, watch, rho, selection, pinned)
        for rho in rhos(stream, signal)
    ]
    said = {} if signal is None else dict(signal.metrics)
    if len(tried) == 1:
        return replace(tried[0], forgetting=said)
    losses = [selection.nll(model, one.state) for one in tried]
    best = tried[losses.index(min(losses))]
    for one, loss in zip(tried, losses, strict=True):
        said[f"forgetting/selection_nll_at_{one.state.spec.forgetting:g}"] = loss
    return replace(best, forgetting=said)


def _trained(
    stream: Stream,
    intake: Intake,
    model: AdaptedModel,
    parent: AdapterState | None,
    watch: Watch | None,
    rho: float,
    selection: Selection,
    pinned: Pinned | None,
) -> Trained:
    chosen = variant_of(stream)
    generator = Generator().manual_seed(_seed(stream, intake.batch))
    start, prior = start_of(stream, intake, model, parent, rho, generator, pinned)
    # Features are kept by the process that made them, and several read other rows every epoch.
    alone = stream.compute.alone
    kept, limit = stream.cache / "features", alone * stream.model.feature_cache_mb * 2**20
    with with_features(intake.train, model, kept, limit) as rows:
        lesson = Lesson(
            model=model,
            start=start,
            prior=prior,
            rows=rows,
            plan=Plan(**stream.learning.plan),
            variant=chosen,
            first=parent is None,
            forgetting=rho,
            predicted=start.spec.predicted,
        )
        if parent is None and stream.learning.start_as == "version":
            fitted = unchanged(lesson, generator, selection)
        else:
            fitted = complete(
                lesson, generator, selection, watch, stream.cache / "training", trainer_of(stream)
            )
    state = _described(fitted.state, stream, intake, chosen, rho)
    # A first round may have turned its axes, and the base prior's with them.
    prior = state.prior if parent is None else prior
    return Trained(state, prior, fitted, _health(state, prior, fitted))


def _in_units(spec: Spec, intake: Intake) -> Spec:
    """Return the first round's spec with what its task keeps of the training rows' answers."""
    known = replace(spec, tally=tuple(intake.known.tolist()))
    return spec if known.predicted == spec.predicted else known


def trainer_of(stream: Stream) -> Fit:
    """Return what trains the stream's candidates: this process, or as many as its file says."""
    asked = stream.compute
    if asked.alone:
        return fit
    from bhpeft.learning.machines import meeting_at
    from bhpeft.learning.torchrun import Torchrun

    meeting = meeting_at(asked.machines) if asked.machines > 1 else None
    return Torchrun(asked.processes, asked.shard, meeting)


def start_of(
    stream: Stream,
    intake: Intake,
    model: AdaptedModel,
    parent: AdapterState | None,
    rho: float,
    generator: Generator,
    pinned: Pinned | None = None,
) -> tuple[AdapterState, MeanField]:
    """Return where the round starts, and its prior."""
    if parent is not None:
        return later_state(parent, variant_of(stream), rho, generator)
    chosen = variant_of(stream)
    texts = intake.holdout[intake.contract.text].tolist()[:MEASURED_ROWS]
    spec = _in_units(spec_of(stream, intake.contract), intake)
    if stream.start is None:
        start = first_state(model, spec, chosen, texts, generator)
    else:
        from bhpeft.exchange import state_from_peft

        whole = stream.learning.start_as == "version"
        start = state_from_peft(stream.start, spec, chosen, texts, model, whole=whole)
    if pinned is not None:
        same_head = pinned.state.answers_alike(start.spec)
        start = at_population(pinned.state.known, start, same_head)
        start = start.with_spec(population=pinned.as_fact)
    return with_members(start, model, chosen), start.prior


def _falling_back(parent: AdapterState | None, pinned: Pinned | None) -> AdapterState | None:
    """Return the parent with the population as the base prior that forgetting falls back to."""
    if parent is None or pinned is None:
        return parent
    same_head = pinned.state.answers_alike(parent.spec)
    prior = base_prior(pinned.state.known, parent.prior, same_head)
    return replace(parent, prior=prior).with_spec(population=pinned.as_fact)


def _selection(stream: Stream, intake: Intake, parent: AdapterState | None) -> Selection:
    rows, contract = intake.selection, intake.contract
    spec = parent.spec if parent else _in_units(spec_of(stream, contract), intake)
    if rows.empty:
        return Selection((), np.empty(0, dtype=np.int64))
    predicted = spec.predicted
    options = options_of(rows, contract, np.full(len(rows), intake.labels))
    return Selection(
        inputs_of(predicted, rows, contract), targets_of(predicted, rows, contract), options
    )


def _described(
    state: AdapterState, stream: Stream, intake: Intake, chosen: Variant, rho: float
) -> AdapterState:
    return state.with_spec(
        kl_weight=chosen.kl_weight,
        forgetting=rho,
        draws=0 if state.most_draws == 0 else stream.prediction.draws,
        absorbed=(*state.spec.absorbed, *_absorbed(intake)),
    )


def _absorbed(intake: Intake) -> Iterator[Absorbed]:
    """Yield each batch of the round with how many of its rows were training rows."""
    start, several = 0, len(intake.batch.each) > 1
    numbers = [part["rows"] for part in intake.train.ordered(COUNTED_ROWS)] if several else []
    for one in intake.batch.each:
        # A rehearsed row's number is -1.
        mine = (((start <= rows) & (rows < start + one.rows)).sum() for rows in numbers)
        own = int(sum(mine)) if several else intake.own_rows
        yield Absorbed(one.batch_id, one.digest, own, intake.labels, one.contract_version)
        start += one.rows


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


def _seed(stream: Stream, batch: Batch) -> int:
    """Return the round's seed: the same stream and batch learn the same way when run again."""
    text = f"{stream.learning.seed}/{batch.digest}"
    return int(hashlib.sha256(text.encode()).hexdigest()[:15], 16)

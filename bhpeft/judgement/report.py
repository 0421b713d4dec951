"""Put everything known about a round into one plain value: the input of every gate.

`Evidence` is what the round produced, `RoundReport` what it amounts to. The report holds numbers
and names only, so gates are pure functions of it, and the registry keeps it as JSON.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any
from zlib import crc32

import numpy as np

from bhpeft.judgement.drift import DriftReport
from bhpeft.judgement.quality import SetReport, SliceReport, set_report, slice_reports
from bhpeft.judgement.scored import Comparison, Scored
from bhpeft.tasks import Quality


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything a round has to show.

    Attributes:
        labels: label names, in the order of the probabilities; empty where the task has none.
        holdout: candidate and champion on the new batch's hold-out rows.
        regression: the same on each frozen regression set.
        slices: columns of `holdout.rows` whose values are reported on one by one.
        drift: what drift was found, or None when it was not looked for.
        posterior: {"finite", "std_ratio_median", "share_floor", "share_ceiling", "kl_nats",
            "kl_by_block", "rho_travel_met"}; a None is "does not apply".
        cost: {"seconds", "state_bytes", "milliseconds_per_row"} and the champion's
            "champion_state_bytes", "champion_milliseconds_per_row", None in the first round.
        fidelity: how close the candidate's predictor comes to the posterior predictive:
            {"predictor", "rows", "draws", "kl", "kl_ratio", "rank_correlation", "rank_gap", "cost",
            "others"}, or None where it was not measured.
        known: what the task tallied on the training rows, such as the label shares, for the
            baseline of the first round.
    """

    labels: tuple[str, ...]
    holdout: Comparison
    regression: tuple[Comparison, ...] = ()
    slices: tuple[str, ...] = ()
    drift: DriftReport | None = None
    posterior: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, float | None] = field(default_factory=dict)
    fidelity: Mapping[str, Any] | None = None
    known: np.ndarray | None = None


@dataclass(frozen=True)
class RoundReport:
    """What a round amounts to.

    Attributes:
        labels: label names.
        holdout: both models on the new batch's hold-out.
        regression: both models on each frozen regression set.
        slices: both models on each slice of the hold-out.
        prequential: the champion on the new hold-out *before* it learned from the batch, against
            its memory (the regression sets): the task's signals ({"nll", "accuracy",
            "mutual_information"}), each also as "…_memory", with "surprise" = nll − nll_memory and
            "surprise_sd". None in the first round; the memory's entries are None without
            regression sets.
        drift: `DriftReport.as_dict()`, or None.
        posterior, cost, fidelity: as in `Evidence`.
    """

    labels: tuple[str, ...]
    holdout: SetReport
    regression: tuple[SetReport, ...]
    slices: tuple[SliceReport, ...]
    prequential: Mapping[str, float | None] | None
    drift: Mapping[str, Any] | None
    posterior: Mapping[str, Any]
    cost: Mapping[str, float | None]
    fidelity: Mapping[str, Any] | None = None

    @property
    def first(self) -> bool:
        """Say whether there was no champion to compare with."""
        return self.holdout.against == "baseline"

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON data; a number that is not finite becomes None."""
        return _plain(self)

    def metrics(self) -> dict[str, float]:
        """Return the finite numbers under flat names, for MLflow."""
        return {
            re.sub(r"[^\w .:/-]", "_", name, flags=re.ASCII): float(value)
            for name, value in _named(self)
            if value is not None and math.isfinite(value)
        }


def build_report(evidence: Evidence, *, seed: int = 0) -> RoundReport:
    """Measure everything once; the same evidence and seed give the same report.

    Each set has random numbers of its own, so adding one does not change the others' intervals.

    Raises:
        ValueError: two sets share a name, or the hold-out lacks a slice column.
    """
    names = [evidence.holdout.name, *(comparison.name for comparison in evidence.regression)]
    if len(set(names)) < len(names):
        raise ValueError(f"Two sets share a name: {', '.join(names)}.")
    missing = set(evidence.slices) - set(evidence.holdout.rows.columns)
    if missing:
        raise ValueError(f"The hold-out lacks the slice columns {', '.join(sorted(missing))}.")

    def measured(comparison: Comparison) -> SetReport:
        return set_report(comparison, evidence.known, _generator(seed, comparison.name))

    return RoundReport(
        labels=tuple(evidence.labels),
        holdout=measured(evidence.holdout),
        regression=tuple(measured(comparison) for comparison in evidence.regression),
        slices=slice_reports(
            evidence.holdout, evidence.slices, evidence.known, _generator(seed, "slices")
        ),
        prequential=_prequential(evidence),
        drift=None if evidence.drift is None else evidence.drift.as_dict(),
        posterior=dict(evidence.posterior),
        cost=dict(evidence.cost),
        fidelity=None if evidence.fidelity is None else dict(evidence.fidelity),
    )


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, crc32(name.encode())])


def _prequential(evidence: Evidence) -> dict[str, float | None] | None:
    new = evidence.holdout.champion
    if new is None or not new.rows or not new.finite:
        return None
    memory = [known.champion for known in evidence.regression if known.champion is not None]
    memory = [scored for scored in memory if scored.rows and scored.finite]
    found: dict[str, float | None] = {}
    for name in new.signals:
        found[name] = _mean([new], name)[0]
        found[f"{name}_memory"] = _mean(memory, name)[0] if memory else None
    found["surprise"] = found["surprise_sd"] = None
    if memory:
        (fresh, spread), (old, old_spread) = _mean([new], "nll"), _mean(memory, "nll")
        # Two independent samples of rows: the variances of the two means add.
        found["surprise"] = fresh - old
        found["surprise_sd"] = math.sqrt(spread + old_spread)
    return found


def _mean(scored: list[Scored], signal: str) -> tuple[float, float]:
    """Return the weighted mean of a signal over the rows of all sets, and that mean's variance."""
    values = np.concatenate([one.signals[signal] for one in scored])
    weights = np.concatenate([one.weights for one in scored])
    mean = float(np.average(values, weights=weights))
    return mean, float((weights**2 * (values - mean) ** 2).sum() / weights.sum() ** 2)


def _named(report: RoundReport) -> Iterator[tuple[str, float | None]]:
    yield from _sets(report)
    for name, value in (report.prequential or {}).items():
        yield f"prequential/{name}", value
    yield from _drift(report.drift or {})
    yield from _posterior(report.posterior)
    for name, value in report.cost.items():
        yield f"cost/{name}", value
    yield from _fidelity(report.fidelity or {})


def _sets(report: RoundReport) -> Iterator[tuple[str, float | None]]:
    holdout, headline = report.holdout, report.holdout.figures.headline
    yield "holdout/rows", holdout.rows
    yield from _quality("holdout", holdout.candidate)
    if holdout.figures.calibration is not None:
        null = f"{holdout.figures.calibration[0]}_null_high"
        yield f"holdout/{null}", getattr(holdout.candidate, null)
    yield from _quality(holdout.against, holdout.reference)
    for metric, interval in holdout.differences.items():
        yield f"difference/{metric}", interval.mean
        yield f"difference/{metric}_upper", interval.upper
    for known in report.regression:
        yield from _quality(f"regression/{known.name}", known.candidate)
        if known.differences:
            yield f"regression/{known.name}/nll_rise", known.differences["nll"].mean
            if headline.name != "nll":
                worse = headline.loss(known.differences[headline.name].mean)
                change = "drop" if headline.higher else "rise"
                yield f"regression/{known.name}/{headline.name}_{change}", worse
    for piece in report.slices:
        yield f"slice/{piece.column}/{piece.value}/{headline.name}", piece.candidate


def _posterior(posterior: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, value in posterior.items():
        if isinstance(value, (int, float)):
            yield f"{'shift' if name == 'kl_nats' else 'posterior'}/{name}", value
    for block, nats in (posterior.get("kl_by_block") or {}).items():
        yield f"shift/kl_nats/{block}", nats


def _quality(prefix: str, quality: Quality) -> Iterator[tuple[str, float | None]]:
    for name in quality.figures.plain:
        yield f"{prefix}/{name}", getattr(quality, name)


def _drift(drift: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name in ("share", "drifted", "extreme", "label_variation"):
        yield f"drift/{name}", drift.get(name)
    for name, column in drift.get("columns", {}).items():
        yield f"drift/column/{name}", column["value"]


def _fidelity(fidelity: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for name, value in fidelity.items():
        if isinstance(value, (int, float)):
            yield f"fidelity/{name}", value
    for other, numbers in fidelity.get("others", {}).items():
        for name, value in numbers.items():
            yield f"fidelity/{other}/{name}", value


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

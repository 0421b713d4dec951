"""Try out a gate or a drift metric of your own on the reports that break careless ones.

    from bhpeft.judgement.conformance import check_gate
    def test_my_gate_behaves(): check_gate(my_gate)

bhpeft runs the same checks on every gate and metric it ships.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import pandas as pd

from bhpeft.judgement.drift_columns import DriftTable
from bhpeft.judgement.drift_metrics import DriftMetric
from bhpeft.judgement.report import Evidence, RoundReport, build_report
from bhpeft.judgement.scored import Comparison
from bhpeft.judgement.verdict import Gate, Outcome, Verdict
from bhpeft.tasks import Scored
from bhpeft.tasks.categorical import Categorical


def check_gate(gate: Gate) -> None:
    """Check a gate on a good, a bad, an empty, a NaN, a bare and a first round's report.

    Raises:
        AssertionError: it raises, mutates its report, answers twice differently, or its verdict
            is not a `Verdict` with a reason that fits into JSON.
    """
    limits = list(signature(gate).parameters.values())[1:]
    for limit in limits:
        _expect(
            limit.kind is Parameter.KEYWORD_ONLY and _is_number(limit.default),
            f"its limit {limit.name!r} is not a keyword argument with a number as default",
        )
    for name, report in example_reports().items():
        before = json.dumps(report.as_dict())
        try:
            verdict, again = gate(report), gate(report)
        except Exception as problem:
            raise AssertionError(f"On the {name} report the gate raised {problem!r}.") from problem
        _check_verdict(verdict, name)
        _expect(verdict == again, f"it answers differently the second time (report: {name})")
        _expect(before == json.dumps(report.as_dict()), f"it changes its report ({name})")


def check_drift_metric(metric: DriftMetric) -> None:
    """Check a drift metric on equal, shifted and degenerate tables.

    Raises:
        AssertionError: it is not deterministic, does not grow with drift, changes its tables, or
            answers degenerate tables with anything but a number or a `ValueError` with a reason.
    """
    rng = np.random.default_rng(0)
    reference, same, shifted = (_drift_table(rng, 200, shift) for shift in (0.0, 0.0, 3.0))
    before = _fingerprint(reference)
    low, high = metric(same, reference), metric(shifted, reference)
    _expect(math.isfinite(low) and math.isfinite(high), "its value is not finite on good tables")
    _expect(high > low, f"it does not grow with drift ({low:.3g} without, {high:.3g} with)")
    _expect(low == metric(same, reference), "it answers differently the second time")
    _expect(before == _fingerprint(reference), "it changes its tables")
    empty = DriftTable(pd.DataFrame({"text": [], "label": []}))
    alone = DriftTable(pd.DataFrame({"text": [None], "label": [None]}))
    for name, table in {"empty": empty, "one-row": alone}.items():
        try:
            value = metric(table, reference)
        except ValueError as reason:
            _expect(bool(str(reason)), f"it refuses the {name} table without a reason")
        except Exception as problem:
            raise AssertionError(
                f"The drift metric raised {problem!r} on the {name} table."
            ) from problem
        else:
            _expect(isinstance(value, float), f"its value on the {name} table is not a number")


@cache
def example_reports() -> Mapping[str, RoundReport]:
    """Return the reports gates are tried on: good, bad, empty, nan, bare and first."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=120)
    rows = pd.DataFrame({"text": ["a text"] * 120, "label": labels, "kind": ["x", "y"] * 60})
    good, fair, wrong = (_scored(rng, labels, noise) for noise in (0.7, 1.2, -0.7))
    broken = Categorical(np.full((2, 120, 2), np.nan), labels)
    nothing = Categorical(np.empty((2, 0, 2)), labels[:0])

    def evidence(
        candidate: Scored,
        champion: Scored | None,
        on: pd.DataFrame,
        fidelity: Mapping[str, Any] | None = None,
    ) -> Evidence:
        return Evidence(
            labels=("negative", "positive"),
            holdout=Comparison("holdout", on, candidate, champion),
            regression=(Comparison("earlier", on, candidate, champion),),
            slices=("kind",),
            posterior=_HEALTHY,
            cost=_COST,
            fidelity=fidelity,
        )

    bare = Evidence(("negative", "positive"), Comparison("holdout", rows, good, fair))
    found = {
        "good": evidence(good, fair, rows, _FAITHFUL),
        "bad": evidence(wrong, good, rows, _FAITHFUL | {"kl_ratio": 9.0, "rank_gap": -0.5}),
        "empty": evidence(nothing, nothing, rows[:0]),
        "nan": evidence(broken, good, rows, _FAITHFUL | {"kl": math.nan, "kl_ratio": math.nan}),
        "nan champion": evidence(good, broken, rows),
        "bare": bare,
        "first": evidence(good, None, rows),
    }
    return MappingProxyType({name: build_report(case) for name, case in found.items()})


_HEALTHY = {
    "finite": True,
    "std_ratio_median": 0.5,
    "share_floor": 0.0,
    "share_ceiling": 0.0,
    "kl_nats": 12.0,
    "kl_by_block": {"0.query.lora.a": 12.0},
    "rho_travel_met": True,
}
_COST = {
    "seconds": 30.0,
    "state_bytes": 1e6,
    "milliseconds_per_row": 5.0,
    "champion_state_bytes": 1e6,
    "champion_milliseconds_per_row": 5.0,
}
_FAITHFUL = {
    "predictor": "last_layer",
    "rows": 32,
    "draws": 100,
    "kl": 0.01,
    "kl_ratio": 0.6,
    "rank_correlation": 0.9,
    "rank_gap": 0.01,
    "cost": 1.1,
    "others": {},
}


def _scored(rng: np.random.Generator, labels: np.ndarray, noise: float) -> Categorical:
    """Return three draws of a calibrated model that reads ±1 under `noise`, wrong if negative."""
    reading = 2 * labels - 1 + abs(noise) * rng.normal(size=len(labels))
    # The log-odds of two Gaussians at ±1, plus a little disagreement between draws.
    logit = np.sign(noise) * 2 * reading / noise**2 + 0.1 * rng.normal(size=(3, len(labels)))
    positive = 1 / (1 + np.exp(-logit))
    return Categorical(np.stack([1 - positive, positive], -1), labels)


def _drift_table(rng: np.random.Generator, rows: int, shift: float) -> DriftTable:
    frame = pd.DataFrame({"text": ["some words"] * rows, "label": ["a", "b"] * (rows // 2)})
    mean = rng.dirichlet([2.0 + shift, 2.0], size=rows)
    embeddings = rng.normal(size=(rows, 8)) + shift * np.eye(8)[0]
    return DriftTable(frame, mean, embeddings, ("a", "b"))


def _fingerprint(table: DriftTable) -> tuple[bytes, bytes, str]:
    arrays = (table.probabilities, table.embeddings)
    blocks = [b"" if array is None else array.tobytes() for array in arrays]
    return blocks[0], blocks[1], table.rows.to_json()


def _check_verdict(verdict: object, name: str) -> None:
    if not isinstance(verdict, Verdict):
        raise AssertionError(f"On the {name} report the gate returned {verdict!r}, no Verdict.")
    _expect(verdict.outcome in get_args(Outcome), f"{verdict.outcome!r} is no outcome ({name})")
    _expect(bool(verdict.gate), f"its verdict does not name the gate ({name})")
    _expect(bool(verdict.reason.strip()), f"it gives no reason ({name})")
    _expect("\n" not in verdict.reason, f"its reason is longer than a line ({name})")
    try:
        json.dumps(verdict.as_dict(), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise AssertionError(
            f"Its verdict is not JSON on the {name} report: {problem}."
        ) from problem


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _expect(condition: bool, complaint: str) -> None:
    if not condition:
        raise AssertionError(f"The plug-in breaks a rule: {complaint}.")

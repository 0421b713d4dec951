"""Judge one column (or one measure of the whole table) for drift.

Every column has an explicit method and threshold. For a distance the threshold says how much
*matters*; whether it is *real* is asked as well: the value must also exceed what 39 random
re-splittings of the same rows show (p < 1/40). With 150 labels and 300 rows a Jensen–Shannon
distance of 0.3 is pure chance, and a fixed threshold would cry drift every round.

A column that cannot be judged (too few rows, constant, no such column, an error inside the
method) is *not evaluable*, with the reason; that is never the same as "no drift".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from bhpeft.judgement.drift_columns import DriftTable, as_kind
from bhpeft.judgement.drift_metrics import DRIFT_METRICS, MIN_ROWS
from bhpeft.plugins import resolve

# Evidently's methods whose value is a distance: larger is more drift, and chance never gives zero.
DISTANCES = frozenset({"wasserstein", "jensenshannon", "psi", "kl_div", "hellinger"})
# The largest of 39 re-splittings is exceeded by chance once in 40 times.
_SPLITS = 39
# Above this chance is far below every threshold worth setting, and re-splitting takes seconds.
_NOISY_ROWS = 5000
# What statistics raise on degenerate data; a programming error elsewhere still surfaces.
_REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError)

Pair = tuple[pd.Series, pd.Series]


@dataclass(frozen=True)
class DriftColumn:
    """How one column is judged.

    Attributes:
        method: an Evidently method ("jensenshannon", "wasserstein", "ks", …), or for kind
            "table" a key of `DRIFT_METRICS` or `package.module:attribute`.
        threshold: the value from which the column counts as drifted (p-value methods: below).
        kind: "numerical", "categorical", "text", or "table": a measure of the whole table.
        measures: what the column measures, where others measure it too: they count once, together.
    """

    method: str
    threshold: float
    kind: str = "numerical"
    measures: str = ""


@dataclass(frozen=True)
class ColumnDrift:
    """What was found in one column.

    Attributes:
        method, kind: as configured.
        value: the drift value, or None where the column is not evaluable.
        threshold: the one applied: the configured one or the noise of these rows if larger.
        drifted: the answer, or None where the column is not evaluable.
        reason: why it is not evaluable, or why the threshold was raised.
    """

    method: str
    kind: str
    value: float | None
    threshold: float
    drifted: bool | None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON data."""
        return asdict(self)


def judge_table(column: DriftColumn, current: DriftTable, reference: DriftTable) -> ColumnDrift:
    """Judge one measure of the whole table.

    Raises:
        UnknownName: there is no such drift metric.
    """
    metric = resolve("drift metric", column.method, DRIFT_METRICS)
    return _guarded(
        column, lambda: _verdict(column, float(metric(current, reference)), column.threshold)
    )


def judge_column(
    name: str,
    column: DriftColumn,
    frames: tuple[pd.DataFrame, pd.DataFrame],
    rng: np.random.Generator,
) -> ColumnDrift:
    """Judge one column of the (current, reference) frames.

    Raises:
        UnknownName: Evidently has no such method for this kind of column.
    """
    return _guarded(column, lambda: _judged(column, pair_of(name, column.kind, frames), rng))


def pair_of(name: str, kind: str, frames: tuple[pd.DataFrame, pd.DataFrame]) -> Pair:
    """Return the column's (current, reference) values without nulls.

    Raises:
        ValueError: a side lacks the column or has too few values, or all values are the same.
    """
    sides = []
    for side, frame in zip(("current", "reference"), frames, strict=True):
        if name not in frame:
            raise ValueError(f"the {side} table has no column {name!r}")
        values = as_kind(frame[name], kind)
        if len(values) < MIN_ROWS:
            raise ValueError(f"{len(values)} {side} values, at least {MIN_ROWS} are needed")
        sides.append(values)
    if pd.concat(sides).nunique() < 2:
        raise ValueError("every row of both tables has the same value")
    return sides[0], sides[1]


def resplit(
    pair: Pair, statistic: Callable[[pd.Series, pd.Series], float], rng: np.random.Generator
) -> float:
    """Return the largest statistic of 39 random re-splittings: what chance alone shows."""
    pooled, size = pd.concat(pair, ignore_index=True), len(pair[0])
    largest = 0.0
    for _ in range(_SPLITS):
        shuffled = pooled.iloc[rng.permutation(len(pooled))].reset_index(drop=True)
        largest = max(largest, statistic(shuffled[:size], shuffled[size:]))
    return largest


def _judged(column: DriftColumn, pair: Pair, rng: np.random.Generator) -> ColumnDrift:
    from bhpeft.judgement.evidently_report import statistic

    def measure(current: pd.Series, reference: pd.Series) -> tuple[float, bool]:
        return statistic(current, reference, column.kind, column.method, column.threshold)

    value, drifted = measure(*pair)
    if column.method not in DISTANCES:
        return _verdict(column, value, column.threshold, drifted)
    if not drifted or min(map(len, pair)) > _NOISY_ROWS:
        return _verdict(column, value, column.threshold)
    noise = resplit(pair, lambda current, reference: measure(current, reference)[0], rng)
    return _verdict(column, value, max(column.threshold, noise))


def _verdict(
    column: DriftColumn, value: float, threshold: float, drifted: bool | None = None
) -> ColumnDrift:
    if not np.isfinite(value):
        raise ValueError(f"the method's value is {value}")
    reason = ""
    if threshold > column.threshold:
        reason = f"chance alone reaches {threshold:.3g} on this many rows"
    answer = value >= threshold if drifted is None else drifted
    return ColumnDrift(column.method, column.kind, float(value), float(threshold), answer, reason)


def _guarded(column: DriftColumn, judge: Callable[[], ColumnDrift]) -> ColumnDrift:
    try:
        return judge()
    except _REFUSALS as problem:
        reason = f"not evaluable: {problem}"
        return ColumnDrift(column.method, column.kind, None, column.threshold, None, reason)


LENGTH = "length"
# Wasserstein is in reference standard deviations: a quarter of one is a visible shift of the
# middle. Jensen–Shannon (natural log): 0.1 is a label share moving from 50 % to 64 %.
ANSWER_COLUMNS: Mapping[str, Mapping[str, DriftColumn]] = {
    "categorical": {
        "label": DriftColumn("jensenshannon", 0.1, "categorical"),
        "prediction": DriftColumn("jensenshannon", 0.1, "categorical"),
        "confidence": DriftColumn("wasserstein", 0.25),
        "entropy": DriftColumn("wasserstein", 0.25),
    },
    "choice": {
        "label": DriftColumn("jensenshannon", 0.1, "categorical"),
        "prediction": DriftColumn("jensenshannon", 0.1, "categorical"),
        "options": DriftColumn("wasserstein", 0.25),
        "margin": DriftColumn("wasserstein", 0.25),
        "entropy": DriftColumn("wasserstein", 0.25),
    },
    "numerical": {
        "label": DriftColumn("wasserstein", 0.25),
        "prediction": DriftColumn("wasserstein", 0.25),
        "uncertainty": DriftColumn("wasserstein", 0.25),
    },
    "": {
        "nll": DriftColumn("wasserstein", 0.25),
        "uncertainty": DriftColumn("wasserstein", 0.25),
        "tokens": DriftColumn("wasserstein", 0.25, measures=LENGTH),
    },
}
TEXT_COLUMNS: Mapping[str, DriftColumn] = {
    "text_length": DriftColumn("wasserstein", 0.25, measures=LENGTH),
    "word_count": DriftColumn("wasserstein", 0.25, measures=LENGTH),
    "non_letter_share": DriftColumn("wasserstein", 0.25),
    "embedding": DriftColumn("classifier_auc", 0.75, "table"),
}


def default_columns(answer: str) -> dict[str, DriftColumn]:
    """Return how columns are judged where a row's answer is a key of `ANSWER_COLUMNS`."""
    return {**ANSWER_COLUMNS[answer], **TEXT_COLUMNS}


DEFAULT_COLUMNS: Mapping[str, DriftColumn] = default_columns("categorical")

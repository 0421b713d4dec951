"""Speak to Evidently: its column statistics, and one report that also shows our own measures.

Only `drift.py` imports this module, and only inside a function: the import takes seconds.

Two habits keep Evidently predictable. Method and threshold are always given, since its defaults
flip from p-values to distances (and "less is drift" to "more is drift") at 1,000 reference rows.
And its embedding drift is never used: it draws a t-SNE each time, 13–60 s for 2,000 rows.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bhpeft.errors import UnknownName, did_you_mean

with warnings.catch_warnings():
    # Evidently 0.7 reads `numpy.core` while it is imported, which numpy 2 deprecates.
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.metric_types import SingleValueCalculation, SingleValueMetric
    from evidently.core.report import Snapshot
    from evidently.legacy.calculations.stattests.registry import (
        StatTestInvalidFeatureTypeError,
        StatTestNotFoundError,
        get_registered_stattest,
    )
    from evidently.legacy.core import ColumnType
    from evidently.metrics import ValueDrift
    from evidently.tests import lte

_KINDS = {
    "numerical": ColumnType.Numerical,
    "categorical": ColumnType.Categorical,
    "text": ColumnType.Text,
}


@dataclass(frozen=True)
class Shown:
    """A value of ours for the report: ECE, Brier, NLL, embedding drift, or a plug-in's."""

    title: str
    current: float
    reference: float | None
    limit: float


class Measured(SingleValueMetric):
    """A number bhpeft has measured, as an Evidently metric with Evidently's own tests."""

    title: str
    current: float
    reference: float | None = None


class MeasuredCalculation(SingleValueCalculation[Measured]):
    """Hand the number over; Evidently finds this class by its type parameter."""

    def calculate(self, context: Any, current_data: Dataset, reference_data: Dataset | None) -> Any:
        """Return the values of current and reference."""
        known = self.metric.reference
        return self.result(self.metric.current), None if known is None else self.result(known)

    def display_name(self) -> str:
        """Return the title shown above the number."""
        return self.metric.title


def statistic(
    current: pd.Series, reference: pd.Series, kind: str, method: str, threshold: float
) -> tuple[float, bool]:
    """Return Evidently's drift value of one column, and whether it calls it drift.

    Raises:
        UnknownName: there is no such kind of column, or no such method for it.
        ValueError: Evidently cannot compute it on these values.
    """
    if kind not in _KINDS:
        raise UnknownName(
            f"There is no kind of drift column called {kind!r}",
            expected=f"one of {', '.join(_KINDS)}, table",
            remedy=did_you_mean(kind, _KINDS),
        )
    column_type = _KINDS[kind]
    try:
        test = get_registered_stattest(method, column_type)
    except (StatTestNotFoundError, StatTestInvalidFeatureTypeError) as problem:
        raise UnknownName(
            f"Evidently has no drift method {method!r} for {kind} columns",
            found=str(problem),
            remedy="Name a method of that kind in the stream file.",
        ) from problem
    with warnings.catch_warnings():
        # Empty bins and constant columns divide by zero on the way to a usable or refused value.
        warnings.simplefilter("ignore")
        found = test(reference, current, column_type, threshold)
    return float(found.drift_score), bool(found.drifted)


def snapshot(
    current: Mapping[str, pd.Series],
    reference: Mapping[str, pd.Series],
    columns: Mapping[str, tuple[str, str, float]],
    shown: Sequence[Shown],
) -> Snapshot:
    """Run one Evidently report over the columns that can be evaluated and our own measures.

    Args:
        current: the new values by column, without nulls.
        reference: the reference values by column, without nulls.
        columns: (kind, method, threshold) by column.
        shown: our own measures, each with the limit it is tested against.
    """
    metrics = [
        Measured(
            title=item.title,
            current=item.current,
            reference=item.reference,
            tests=[lte(item.limit)],
        )
        for item in shown
    ]
    drifts = [
        ValueDrift(column=name, method=method, threshold=threshold)
        for name, (_, method, threshold) in columns.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Report([*metrics, *drifts], include_tests=True).run(
            _dataset(current, columns), _dataset(reference, columns)
        )


def as_json(run: Snapshot) -> dict[str, Any]:
    """Return the report as plain JSON data."""
    return json.loads(json.dumps(run.dict(), default=str))


def _dataset(
    values: Mapping[str, pd.Series], columns: Mapping[str, tuple[str, str, float]]
) -> Dataset:
    of_kind = {
        kind: [name for name, column in columns.items() if column[0] == kind] for kind in _KINDS
    }
    # Columns without nulls may differ in length; the frame pads them and Evidently drops the pads.
    frame = pd.DataFrame({name: values[name] for name in columns})
    if frame.empty:
        # A report of our measures alone still needs a row to stand on.
        frame = pd.DataFrame({"rows": [0.0]})
        of_kind["numerical"] = ["rows"]
    return Dataset.from_pandas(
        frame,
        data_definition=DataDefinition(
            numerical_columns=of_kind["numerical"],
            categorical_columns=of_kind["categorical"],
            text_columns=of_kind["text"],
        ),
    )

"""Measure one set of rows: both models' quality, and the paired differences between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bhpeft.judgement.bootstrap import Interval, paired_intervals
from bhpeft.judgement.scored import Comparison, Scored
from bhpeft.tasks import Figures, Quality

_NAN = float("nan")


@dataclass(frozen=True)
class SetReport:
    """Candidate and reference on one set of rows.

    Attributes:
        name: "holdout", or the regression set's.
        rows: how many.
        against: "champion", or "baseline" in the first round.
        candidate, reference: quality of the two.
        differences: candidate − reference by metric; empty where it cannot be computed.
    """

    name: str
    rows: int
    against: str
    candidate: Quality
    reference: Quality
    differences: Mapping[str, Interval]

    @property
    def figures(self) -> Figures:
        """Return which figure plays which part."""
        return self.candidate.figures


@dataclass(frozen=True)
class SliceReport:
    """Candidate and reference on the rows of one slice of the hold-out.

    Attributes:
        column, value: which slice.
        rows: how many.
        candidate, reference: the headline's figure of the two.
        difference, nll: candidate − reference of the headline and the NLL, or None without rows
            or numbers.
    """

    column: str
    value: str
    rows: int
    candidate: float
    reference: float
    difference: Interval | None
    nll: Interval | None


def set_report(
    comparison: Comparison, known: np.ndarray | None, rng: np.random.Generator
) -> SetReport:
    """Return the report of one comparison; the baseline stands in for a missing champion."""
    candidate, reference = comparison.candidate, comparison.reference(known)
    comparable = candidate.rows > 0 and candidate.finite and reference.finite
    return SetReport(
        name=comparison.name,
        rows=candidate.rows,
        against="baseline" if comparison.champion is None else "champion",
        candidate=candidate.quality(rng),
        reference=reference.quality(rng),
        differences=paired_intervals(candidate, reference, rng=rng) if comparable else {},
    )


def slice_reports(
    comparison: Comparison,
    columns: tuple[str, ...],
    known: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[SliceReport, ...]:
    """Return one report for each value of each slice column, in order; nulls are a slice too.

    Raises:
        KeyError: the rows lack a slice column.
    """
    candidate, reference = comparison.candidate, comparison.reference(known)
    found = []
    for column in columns:
        values = comparison.rows[column].map(lambda value: str(value)).to_numpy(dtype=object)
        for value in sorted(set(values)):
            rows = values == value
            found.append(
                _slice_report(column, value, candidate.take(rows), reference.take(rows), rng)
            )
    return tuple(found)


def _slice_report(
    column: str, value: str, candidate: Scored, reference: Scored, rng: np.random.Generator
) -> SliceReport:
    headline, whole = candidate.figures.headline.name, np.ones((1, candidate.rows))
    found = {}
    for side, scored in (("candidate", candidate), ("reference", reference)):
        metrics = scored.statistics() if scored.finite else None
        place = metrics.names.index(headline) if metrics else 0
        found[side] = float(metrics(whole)[0, place]) if metrics else _NAN
    comparable = candidate.finite and reference.finite
    differences = paired_intervals(candidate, reference, rng=rng) if comparable else {}
    return SliceReport(
        column, value, candidate.rows, found["candidate"], found["reference"],
        differences.get(headline), differences.get("nll"),
    )  # fmt: skip

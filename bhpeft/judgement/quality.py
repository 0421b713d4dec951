"""Measure one set of rows: both models' quality, and the paired differences between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bhpeft.judgement.bootstrap import Interval, paired_bootstrap, paired_intervals
from bhpeft.judgement.metrics import (
    ReliabilityBin,
    accuracy,
    accuracy_at_rejection,
    brier,
    correct_rows,
    ece,
    ece_null,
    nll,
    nll_rows,
    rejection_curve,
    reliability_table,
)
from bhpeft.judgement.scored import Comparison, Scored

_NAN = float("nan")


@dataclass(frozen=True)
class Quality:
    """One model on one set of rows; every figure is NaN where it has no rows or no numbers.

    Attributes:
        accuracy, nll, brier, ece: as in `bhpeft.judgement.metrics`.
        ece_null_low, ece_null_high: 95 % range of ECE were this model perfectly calibrated.
        accuracy_at_rejection: accuracy when the 20 % of highest entropy are refused.
        entropy, mutual_information: means over rows, in nats.
        reliability: the bars of the reliability diagram.
        rejection: (share refused, accuracy of the rest).
    """

    accuracy: float = _NAN
    nll: float = _NAN
    brier: float = _NAN
    ece: float = _NAN
    ece_null_low: float = _NAN
    ece_null_high: float = _NAN
    accuracy_at_rejection: float = _NAN
    entropy: float = _NAN
    mutual_information: float = _NAN
    reliability: tuple[ReliabilityBin, ...] = ()
    rejection: tuple[tuple[float, float], ...] = ()


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


@dataclass(frozen=True)
class SliceReport:
    """Candidate and reference on the rows of one slice of the hold-out.

    Attributes:
        column, value: which slice.
        rows: how many.
        candidate_accuracy, reference_accuracy: of the two.
        accuracy, nll: candidate − reference, or None without rows or numbers.
    """

    column: str
    value: str
    rows: int
    candidate_accuracy: float
    reference_accuracy: float
    accuracy: Interval | None
    nll: Interval | None


def quality_of(scored: Scored, rng: np.random.Generator) -> Quality:
    """Return the quality of one model."""
    if not scored.rows or not scored.finite:
        return Quality()
    mean, labels, entropy = scored.mean, scored.labels, scored.entropy
    low, high = ece_null(mean, rng=rng)
    return Quality(
        accuracy=accuracy(mean, labels),
        nll=nll(mean, labels),
        brier=brier(mean, labels),
        ece=ece(mean, labels),
        ece_null_low=low,
        ece_null_high=high,
        accuracy_at_rejection=accuracy_at_rejection(mean, labels, entropy),
        entropy=float(entropy.mean()),
        mutual_information=float(scored.mutual_information.mean()),
        reliability=reliability_table(mean, labels),
        rejection=rejection_curve(mean, labels, entropy),
    )


def set_report(
    comparison: Comparison, shares: np.ndarray | None, rng: np.random.Generator
) -> SetReport:
    """Return the report of one comparison; the baseline stands in for a missing champion."""
    candidate, reference = comparison.candidate, comparison.reference(shares)
    comparable = candidate.rows > 0 and candidate.finite and reference.finite
    return SetReport(
        name=comparison.name,
        rows=candidate.rows,
        against="baseline" if comparison.champion is None else "champion",
        candidate=quality_of(candidate, rng),
        reference=quality_of(reference, rng),
        differences=paired_intervals(candidate, reference, rng=rng) if comparable else {},
    )


def slice_reports(
    comparison: Comparison,
    columns: tuple[str, ...],
    shares: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[SliceReport, ...]:
    """Return one report for each value of each slice column, in order; nulls are a slice too.

    Raises:
        KeyError: the rows lack a slice column.
    """
    candidate, reference = comparison.candidate, comparison.reference(shares)
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
    if not (candidate.finite and reference.finite):
        known = [
            accuracy(scored.mean, scored.labels) if scored.finite else _NAN
            for scored in (candidate, reference)
        ]
        return SliceReport(column, value, candidate.rows, known[0], known[1], None, None)
    pairs = [(scored.mean, scored.labels) for scored in (candidate, reference)]
    right = [correct_rows(*pair) for pair in pairs]
    losses = [nll_rows(*pair) for pair in pairs]
    return SliceReport(
        column=column,
        value=value,
        rows=candidate.rows,
        candidate_accuracy=float(right[0].mean()),
        reference_accuracy=float(right[1].mean()),
        accuracy=paired_bootstrap(right[0] - right[1], rng=rng),
        nll=paired_bootstrap(losses[0] - losses[1], rng=rng),
    )

"""Compare a new batch with what the champion learned, and say what the differences mean.

- `drifted`: the embeddings drifted, or at least a third of the columns that could be judged did;
  columns that measure the same thing, such as a text's length, count as one, which drifted if one
  of them did.
- `extreme`: so unlike what is known that a person should look before a promotion. The rule is
  narrow on purpose, as it stops the chain: the label shares moved by 0.3 in total variation (a
  third of the rows would need another label), or a text statistic by five reference standard
  deviations (another kind of document: dumps, markup). Measured on VADER: movie → tweets, a change
  of domain that costs 13 points of accuracy, moves labels by 0.18 and text statistics by 1.8.

Both are None, and not False, where nothing could be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from bhpeft.judgement.column_drift import (
    DEFAULT_COLUMNS,
    ColumnDrift,
    DriftColumn,
    judge_column,
    judge_table,
    pair_of,
    resplit,
)
from bhpeft.judgement.drift_columns import DriftTable, drift_frame

__all__ = [
    "DEFAULT_COLUMNS",
    "ColumnDrift",
    "DriftColumn",
    "DriftReport",
    "DriftRule",
    "DriftTable",
    "drift_report",
]

Frames = tuple[pd.DataFrame, pd.DataFrame]
# Of each text, where the champion is a language model: how likely it finds it.
LIKELIHOOD = "nll"
TEXT_STATISTICS = ("text_length", "word_count", "non_letter_share")


@dataclass(frozen=True)
class DriftRule:
    """When columns add up to drift, and when drift is extreme; see the module's docstring.

    Attributes:
        share: drifted share of the evaluable columns from which the batch counts as drifted.
        decisive: columns of which one alone is enough.
        extreme_labels: total variation of the label shares from which drift is extreme.
        extreme_answer: shift of numerical answers, in reference standard deviations, likewise.
        extreme_text: shift of a text statistic, or of how well a language model that was trained
            on such texts predicts them, in reference standard deviations, likewise.
    """

    share: float = 1 / 3
    decisive: tuple[str, ...] = ("embedding",)
    extreme_labels: float = 0.3
    extreme_answer: float = 1.5
    extreme_text: float = 5.0


@dataclass(frozen=True)
class ChampionScore:
    """One calibration figure of the champion: on the new batch, on its memory, and its limit."""

    value: float
    reference: float | None
    limit: float


@dataclass(frozen=True, eq=False)
class DriftReport:
    """What drift was found.

    Attributes:
        columns: what was found in each column.
        share: drifted share of what could be evaluated, or None.
        drifted, extreme: the two answers; None where nothing could be evaluated.
        reasons: one line for each thing that made the drift extreme.
        label_variation: total variation distance of the label shares, or None.
        calibration: the champion's figures that its task has watched, such as "ece", "brier" and
            "nll"; empty where they cannot be had.
        json: Evidently's report as plain data.
    """

    columns: Mapping[str, ColumnDrift]
    share: float | None
    drifted: bool | None
    extreme: bool | None
    reasons: tuple[str, ...]
    label_variation: float | None
    calibration: Mapping[str, ChampionScore]
    json: Mapping[str, Any]
    _snapshot: Any = field(repr=False)

    def save_html(self, path: Path | str) -> Path:
        """Write Evidently's page (3.6 MB, self-contained, opens offline) and return its path."""
        self._snapshot.save_html(str(path))
        return Path(path)

    def as_dict(self) -> dict[str, Any]:
        """Return everything but Evidently's own report, as JSON data."""
        return {
            "columns": {name: column.as_dict() for name, column in self.columns.items()},
            "share": self.share,
            "drifted": self.drifted,
            "extreme": self.extreme,
            "reasons": list(self.reasons),
            "label_variation": self.label_variation,
            "calibration": {name: asdict(score) for name, score in self.calibration.items()},
        }


def drift_report(
    current: DriftTable,
    reference: DriftTable,
    columns: Mapping[str, DriftColumn] = DEFAULT_COLUMNS,
    *,
    rule: DriftRule | None = None,
    known: np.ndarray | None = None,
    seed: int = 0,
) -> DriftReport:
    """Judge every column, apply the rule, and build one Evidently report of it all.

    Args:
        current: the new batch.
        reference: what the champion learned; probabilities of both come from the champion.
        columns: how each column is judged.
        rule: when columns add up to drift; `DriftRule()` by default.
        known: what the task's baseline knows, for the limits of the champion's figures.
        seed: of re-splittings and calibrated null, so that the same tables give one report.

    Raises:
        UnknownName: a method or a table metric nobody knows.
    """
    rng, rule = np.random.default_rng(seed), rule or DriftRule()
    frames = drift_frame(current), drift_frame(reference)
    judged = {
        name: judge_table(column, current, reference)
        if column.kind == "table"
        else judge_column(name, column, frames, rng)
        for name, column in columns.items()
    }
    calibration = _calibration(current, reference, known, rng)
    titles = current.judged.figures.watched if calibration and current.judged else {}
    run = _snapshot_of(judged, columns, frames, calibration, titles)
    share, drifted = _drifted(judged, columns, rule)
    numerical = "label" in columns and columns["label"].kind == "numerical"
    look = _extreme_numbers if numerical else _extreme
    variation, extreme, reasons = look(frames, rule, rng)
    return DriftReport(
        judged, share, drifted, extreme, reasons, variation, calibration, _json_of(run), run
    )


def _drifted(
    judged: Mapping[str, ColumnDrift], columns: Mapping[str, DriftColumn], rule: DriftRule
) -> tuple[float | None, bool | None]:
    answers: dict[str, bool] = {}
    for name, found in judged.items():
        if found.drifted is not None:
            thing = columns[name].measures or name
            answers[thing] = answers.get(thing, False) or found.drifted
    if not answers:
        return None, None
    share = sum(answers.values()) / len(answers)
    decided = any(judged[name].drifted for name in rule.decisive if name in judged)
    return share, decided or share >= rule.share


def _extreme(
    frames: Frames, rule: DriftRule, rng: np.random.Generator
) -> tuple[float | None, bool | None, tuple[str, ...]]:
    """Return the label variation, whether drift is extreme, and why."""
    told = (*TEXT_STATISTICS, LIKELIHOOD)
    reasons, seen = _extreme_shifts(frames, dict.fromkeys(told, rule.extreme_text))
    try:
        pair = pair_of("label", "categorical", frames)
    except ValueError:  # judge_column has already said why this column is not evaluable
        return None, (bool(reasons) if seen else None), tuple(reasons)
    variation = _total_variation(*pair)
    if variation >= rule.extreme_labels and variation > resplit(pair, _total_variation, rng):
        reasons.insert(
            0,
            f"label shares moved by {variation:.2f} in total variation, "
            f"limit {rule.extreme_labels:g}",
        )
    return variation, bool(reasons), tuple(reasons)


def _extreme_numbers(
    frames: Frames, rule: DriftRule, rng: np.random.Generator
) -> tuple[None, bool | None, tuple[str, ...]]:
    """Return whether drift is extreme where answers are numbers, and why."""
    limits = {"label": rule.extreme_answer, **dict.fromkeys(TEXT_STATISTICS, rule.extreme_text)}
    reasons, seen = _extreme_shifts(frames, limits)
    return None, (bool(reasons) if seen else None), tuple(reasons)


def _extreme_shifts(frames: Frames, limits: Mapping[str, float]) -> tuple[list[str], bool]:
    """Return which numerical columns moved beyond their limit, and whether any could be judged."""
    seen, reasons = False, []
    for name, limit in limits.items():
        try:
            moved = _standardised_shift(*pair_of(name, "numerical", frames))
        except ValueError:
            continue  # judge_column has already said why this column is not evaluable
        seen = True
        if moved >= limit:
            told = {"label": "the answers", LIKELIHOOD: "the NLL of a token"}.get(name, name)
            reasons.append(
                f"{told} moved by {moved:.1f} reference standard deviations, limit {limit:g}"
            )
    return reasons, seen


def _total_variation(current: pd.Series, reference: pd.Series) -> float:
    new = current.value_counts(normalize=True)
    return float(new.sub(reference.value_counts(normalize=True), fill_value=0.0).abs().sum() / 2)


def _standardised_shift(current: pd.Series, reference: pd.Series) -> float:
    spread = max(float(reference.std()), 1e-3)
    return float(wasserstein_distance(current, reference)) / spread


def _calibration(
    current: DriftTable,
    reference: DriftTable,
    known: np.ndarray | None,
    rng: np.random.Generator,
) -> dict[str, ChampionScore]:
    """Return the champion's watched figures on the new batch, on its memory, and their limits.

    The limit of the calibration error is the top of its calibrated null; the others must beat the
    task's baseline. Empty where the answers or what the champion says of them are not known.
    """
    new, old = current.judged, reference.judged
    if new is None:
        return {}
    figures, told = new.figures, new.quality(rng)
    before = None if old is None else old.quality(rng)
    ignorant = new.baseline(known).quality(rng)
    error = figures.calibration[0] if figures.calibration else ""
    return {
        name: ChampionScore(
            getattr(told, name),
            None if before is None else getattr(before, name),
            getattr(told, f"{name}_null_high") if name == error else getattr(ignorant, name),
        )
        for name in figures.watched
    }


def _snapshot_of(
    judged: Mapping[str, ColumnDrift],
    columns: Mapping[str, DriftColumn],
    frames: Frames,
    calibration: Mapping[str, ChampionScore],
    titles: Mapping[str, str],
) -> Any:
    from bhpeft.judgement.evidently_report import Shown, snapshot

    shown, told, pairs = [], {}, {}
    for name, found in judged.items():
        if found.value is None:
            continue
        if found.kind == "table":
            title = f"Drift of {name} ({found.method})"
            shown.append(Shown(title, found.value, None, found.threshold))
        else:
            pairs[name] = pair_of(name, found.kind, frames)
            told[name] = (found.kind, found.method, found.threshold)
    for name, score in calibration.items():
        shown.append(Shown(titles[name], score.value, score.reference, score.limit))
    return snapshot(
        {name: pair[0] for name, pair in pairs.items()},
        {name: pair[1] for name, pair in pairs.items()},
        told,
        shown,
    )


def _json_of(run: Any) -> dict[str, Any]:
    from bhpeft.judgement.evidently_report import as_json

    return as_json(run)

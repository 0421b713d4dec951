"""Lay out what drift is looked for in: one frame of plain columns from texts, labels, predictions.

Text statistics are counted here and not by Evidently's descriptors: three lines, nothing to
download, and a missing text becomes a missing value instead of an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bhpeft.tasks import Scored
from bhpeft.tasks.categorical import Categorical


@dataclass(frozen=True, eq=False)
class DriftTable:
    """One side of a drift comparison: the new batch, or what the champion learned.

    Attributes:
        rows: text, label and any further columns; one line a row.
        probabilities: (N, C) averaged probabilities of the champion on these rows, or None.
        embeddings: (N, d) base-model embeddings of the texts, or None.
        labels: names of the C columns of `probabilities`, in order; needed for calibration.
        predictions: columns (N,) of what the champion predicts where that is no probabilities.
        scored: the champion on these rows, whose calibration is shown; without it that is taken
            from probabilities and labels.
    """

    rows: pd.DataFrame
    probabilities: np.ndarray | None = None
    embeddings: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    predictions: Mapping[str, np.ndarray] = field(default_factory=dict)
    scored: Scored | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of another length than the rows.

        Raises:
            ValueError: they differ.
        """
        for name, array in (("probabilities", self.probabilities), ("embeddings", self.embeddings)):
            if array is not None and len(array) != len(self.rows):
                raise ValueError(f"{len(array)} {name} for {len(self.rows)} rows.")

    @property
    def label_index(self) -> np.ndarray | None:
        """Return the labels as columns (N,) of `probabilities`, or None where that is unknown."""
        if self.probabilities is None or "label" not in self.rows or not self.labels:
            return None
        position = {name: k for k, name in enumerate(self.labels)}
        found = [position.get(str(label), -1) for label in self.rows["label"]]
        return None if -1 in found or not found else np.array(found)

    @property
    def judged(self) -> Scored | None:
        """Return the champion on these rows, or None where rows or numbers are missing."""
        labels, known = self.label_index, self.scored
        if known is None and self.probabilities is not None and labels is not None:
            known = Categorical(self.probabilities[None], labels)
        return known if known is not None and known.rows and known.finite else None


def drift_frame(table: DriftTable) -> pd.DataFrame:
    """Return the table's own columns plus text statistics and predictions, nulls kept as nulls."""
    frame = table.rows.reset_index(drop=True).copy()
    if "text" in frame:
        frame = frame.assign(**_text_statistics(frame["text"]))
    frame = frame.assign(**table.predictions)
    if table.probabilities is not None:
        frame = frame.assign(**_predictions(table.probabilities, table.labels))
    return frame


def as_kind(values: pd.Series, kind: str) -> pd.Series:
    """Return the values without nulls, as strings or as finite floats.

    Evidently refuses nullable integers with a null as a category, hence the cast.

    Raises:
        ValueError: numbers were asked for and the values are not.
    """
    present = values.dropna().reset_index(drop=True)
    if kind != "numerical":
        return present.astype(str).astype(object)
    try:
        numbers = present.astype("float64")
    except (TypeError, ValueError) as problem:
        raise ValueError(f"the values are not numbers ({problem})") from problem
    return numbers[np.isfinite(numbers)].reset_index(drop=True)


def _text_statistics(texts: pd.Series) -> dict[str, list[float]]:
    known = [text if isinstance(text, str) else None for text in texts]
    return {
        "text_length": [_nan if t is None else float(len(t)) for t in known],
        "word_count": [_nan if t is None else float(len(t.split())) for t in known],
        "non_letter_share": [_nan if t is None else _non_letter_share(t) for t in known],
    }


def _non_letter_share(text: str) -> float:
    solid = "".join(text.split())
    return sum(not sign.isalpha() for sign in solid) / len(solid) if solid else 1.0


def _predictions(mean: np.ndarray, labels: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not len(mean):
        return {name: np.array([]) for name in ("prediction", "confidence", "entropy")}
    top = mean.argmax(1)
    names = np.array(labels or [str(k) for k in range(mean.shape[1])], dtype=object)
    plogp = mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny))
    return {"prediction": names[top], "confidence": mean.max(1), "entropy": -plogp.sum(1)}


_nan = float("nan")

"""Judge draws of a language model: how likely each makes every text, token by token.

A row is one observation: under one draw of the weights its log-likelihood is the sum over its true
tokens, and the mixture over draws is taken of whole rows. What is reported is a token's share,

    NLL = Σ_rows −log 1/S Σ_s p_s(row)  /  Σ_rows tokens,      perplexity = exp(NLL)

so that a long text counts for more than a short one, and padding for nothing. Uncertainty is that
of the next token, averaged over a row: entropy of the averaged distribution (total), mean entropy
of the draws' (aleatoric), and their difference (epistemic).

A language model that is calibrated is as surprised as it expects to be: over texts, NLL and entropy
of the next token are the same. Their difference is what is reported as calibration error, and shown
in tenths of the rows from the surest to the least sure. With several draws the two are of slightly
different mixtures, which the mutual information bounds.

Source: calibration by entropy, Braverman et al. 2020 (arXiv 1906.05664).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log, sqrt
from typing import Any, ClassVar

import numpy as np

from bhpeft.tasks.metrics import by_entropy, kept_accuracy, kept_curve
from bhpeft.tasks.scored import REJECTED, Figures, Headline, ReliabilityBin

_NAN = float("nan")

# Bars need rows to stand on: at most so many, of at least so many rows each.
BARS, ROWS_A_BAR = 10, 10
# Where the spread over rows is read off: every fortieth of them, both ends included.
SHARES = np.linspace(0.0, 1.0, 41)
# The 2.5 % and 97.5 % quantiles of |z| for z ~ N(0, 1).
_NULL = (0.0313, 2.2414)

# Tokens a row below which there is nothing to divide by: rows of one token, which have none.
_FEWEST = 1e-6

FIGURES = Figures(
    headline=Headline("nll", "NLL a token", higher=False),
    plain=(
        *("nll", "perplexity", "tokens", "entropy", "mutual_information"),
        *("calibration_error", "nll_at_rejection"),
    ),
    calibration=("calibration_error", "NLL off the entropy by"),
    rejected="nll_at_rejection",
    said="entropy of the next token, nats",
    happened="NLL of it, nats",
    probable=False,
    answer="",
    watched={
        "calibration_error": "NLL off the entropy (nats a token)",
        "perplexity": "Perplexity",
        "nll": "NLL (nats a token)",
    },
    shown=("texts",),
)


@dataclass(frozen=True)
class LengthBin:
    """Texts of about one length, and how well they are predicted.

    Attributes:
        low, high: tokens of the shortest and the longest of them.
        rows, tokens: how many they are, and how many tokens they have in all.
        nll: of a token, in nats.
    """

    low: float
    high: float
    rows: int
    tokens: float
    nll: float


@dataclass(frozen=True)
class TextQuality:
    """One model on one set of texts; every figure is NaN where it has no rows or no numbers.

    Attributes:
        nll, perplexity: of a token, over all true tokens of all rows.
        tokens: how many there are.
        entropy, mutual_information: of the next token, means over rows, in nats.
        calibration_error: by how much a token's NLL and entropy differ, over all tokens, in nats.
        calibration_error_null_low, calibration_error_null_high: its 95 % range were the two the
            same, by how rows differ.
        nll_at_rejection: a token's NLL when the 20 % of rows of highest entropy are refused.
        reliability: entropy against NLL, by tenths of the rows.
        rejection: (share of rows refused, a token's NLL in the rest).
        spread: (share of rows, a token's NLL that they stay below).
        lengths: a token's NLL by the rows' tokens.
    """

    figures: ClassVar[Figures] = FIGURES

    nll: float = _NAN
    perplexity: float = _NAN
    tokens: float = _NAN
    entropy: float = _NAN
    mutual_information: float = _NAN
    calibration_error: float = _NAN
    calibration_error_null_low: float = _NAN
    calibration_error_null_high: float = _NAN
    nll_at_rejection: float = _NAN
    reliability: tuple[ReliabilityBin, ...] = ()
    rejection: tuple[tuple[float, float], ...] = ()
    spread: tuple[tuple[float, float], ...] = ()
    lengths: tuple[LengthBin, ...] = ()


@dataclass(frozen=True, eq=False)
class Texts:
    """One model's likelihoods of texts.

    Attributes:
        said: (S, N, 4) float64: of each draw and row the log-likelihood, how many tokens it is of,
            and a token's entropy under the draw and under the average of all draws, in nats.
    """

    figures: ClassVar[Figures] = FIGURES

    said: np.ndarray

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit.

        Raises:
            ValueError: the array is not (S, N, 4).
        """
        if self.said.ndim != 3 or self.said.shape[0] == 0 or self.said.shape[2] != 4:
            raise ValueError(f"Likelihoods are {self.said.shape}; expected (draws, rows, 4).")

    @property
    def rows(self) -> int:
        """Return N."""
        return int(self.said.shape[1])

    @property
    def finite(self) -> bool:
        """Say whether every figure is a number."""
        return bool(np.isfinite(self.said).all())

    @cached_property
    def nll_rows(self) -> np.ndarray:
        """Return −log of the mixture's likelihood of each whole row (N,), in nats."""
        likelihood = self.said[..., 0]
        return np.asarray(log(len(likelihood)) - np.logaddexp.reduce(likelihood, axis=0))

    @property
    def weights(self) -> np.ndarray:
        """Return how many tokens each row is judged by (N,); a row of one token by none."""
        return np.asarray(self.said[0, :, 1])

    @property
    def uncertainty(self) -> np.ndarray:
        """Return the next token's entropy, averaged over each row (N,)."""
        return np.asarray(self.said[0, :, 3])

    @property
    def mutual_information(self) -> np.ndarray:
        """Return how much the draws disagree about the next token, averaged over each row (N,)."""
        return np.maximum(self.uncertainty - self.said[..., 2].mean(0), 0.0)

    @property
    def signals(self) -> Mapping[str, np.ndarray]:
        """Return a token's NLL and mutual information in each row."""
        return {
            "nll": self.nll_rows / np.maximum(self.weights, 1),
            "mutual_information": self.mutual_information,
        }

    def take(self, rows: np.ndarray) -> Texts:
        """Return the same model on a subset of the rows, given as a mask or as positions."""
        return Texts(self.said[:, rows])

    def same_rows(self, other: Texts) -> bool:
        """Say whether the other read rows of the same lengths."""
        return np.array_equal(self.weights, other.weights)

    def baseline(self, known: np.ndarray | None) -> Texts:
        """Return the frozen base without any method, whose likelihoods are `known`."""
        return self if known is None else Texts(known)

    def seen(self, labels: tuple[str, ...]) -> Mapping[str, Any]:
        """Return what a drift table shows of the predictions: a token's, and how many there are."""
        predictions = {
            "nll": self.signals["nll"],
            "uncertainty": self.uncertainty,
            "tokens": self.weights,
        }
        return {"predictions": predictions}

    def quality(self, rng: np.random.Generator) -> TextQuality:
        """Return NLL, perplexity, uncertainty and calibration, and how rows differ in them."""
        tokens = float(self.weights.sum())
        if not self.rows or not tokens or not self.finite:
            return TextQuality()
        nll, off, rejected = self.statistics()(np.ones((1, self.rows)))[0].tolist()
        sd = self._spread_of_error(tokens)
        judged = self.weights > 0
        return TextQuality(
            nll=nll,
            perplexity=float(np.exp(min(nll, 700.0))),
            tokens=tokens,
            entropy=float(self.uncertainty.mean()),
            mutual_information=float(self.mutual_information.mean()),
            calibration_error=off,
            calibration_error_null_low=_NULL[0] * sd,
            calibration_error_null_high=_NULL[1] * sd,
            nll_at_rejection=rejected,
            reliability=tuple(self._bar(rows) for rows in self._tenths(self.uncertainty)),
            rejection=self._rejection(),
            spread=tuple(
                (float(share), float(value))
                for share, value in zip(
                    SHARES, np.quantile(self.signals["nll"][judged], SHARES), strict=True
                )
            ),
            lengths=tuple(self._length(rows) for rows in self._tenths(self.weights)),
        )

    @property
    def excess_rows(self) -> np.ndarray:
        """Return by how much each row's NLL is above what its entropy expects (N,), in nats."""
        return self.nll_rows - self.uncertainty * self.weights

    def statistics(self) -> TextStatistics:
        """Return the metrics whose differences are reported."""
        return TextStatistics(self)

    def _spread_of_error(self, tokens: float) -> float:
        """Return the standard error of the mean excess of a token, rows being independent."""
        excess = self.excess_rows
        centred = excess - self.weights * excess.sum() / tokens
        return sqrt(float((centred**2).sum())) / tokens

    def _tenths(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the places of rows with tokens, by rising `values`, in bars as equal as may be."""
        order = np.argsort(values, kind="stable")
        order = order[self.weights[order] > 0]
        return np.array_split(order, max(1, min(BARS, len(order) // ROWS_A_BAR)))

    def _bar(self, rows: np.ndarray) -> ReliabilityBin:
        entropy, weights = self.uncertainty[rows], self.weights[rows]
        return ReliabilityBin(
            low=float(entropy.min()),
            high=float(entropy.max()),
            rows=len(rows),
            confidence=float(np.average(entropy, weights=weights)),
            accuracy=float(self.nll_rows[rows].sum() / weights.sum()),
        )

    def _length(self, rows: np.ndarray) -> LengthBin:
        weights = self.weights[rows]
        return LengthBin(
            low=float(weights.min()),
            high=float(weights.max()),
            rows=len(rows),
            tokens=float(weights.sum()),
            nll=float(self.nll_rows[rows].sum() / weights.sum()),
        )

    def _rejection(self) -> tuple[tuple[float, float], ...]:
        nats, tokens = (
            kept_curve(self.uncertainty, values) for values in (self.nll_rows, self.weights)
        )
        return tuple(
            (share, sum_ / many)
            for (share, sum_), (_, many) in zip(nats, tokens, strict=True)
            if many > 0
        )


class TextStatistics:
    """Turn resample counts (R, N) into the metrics (R, 3): rows are drawn, tokens are counted."""

    names = ("nll", "calibration_error", "nll_at_rejection")

    def __init__(self, scored: Texts):
        self.sums = np.column_stack([scored.nll_rows, scored.excess_rows, scored.weights])
        self.order, self.nats = by_entropy(scored.uncertainty, scored.nll_rows)
        self.tokens = by_entropy(scored.uncertainty, scored.weights)[1]

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the metrics of each resample."""
        sums = counts @ self.sums.astype(counts.dtype)
        tokens = np.maximum(sums[:, 2], 1.0)
        drawn = counts.take(self.order, 1)
        nats, left = (
            kept_accuracy(drawn, values.astype(counts.dtype), REJECTED)
            for values in (self.nats, self.tokens)
        )
        kept = nats / np.maximum(left, _FEWEST)
        return np.column_stack([sums[:, 0] / tokens, np.abs(sums[:, 1]) / tokens, kept])

"""Judge draws of a language model: how likely each makes every text, token by token.

A row is one observation: under one draw of the weights its log-likelihood is the sum over its true
tokens, and the mixture over draws is taken of whole rows. What is reported is a token's share,

    NLL = Σ_rows −log 1/S Σ_s p_s(row)  /  Σ_rows tokens,      perplexity = exp(NLL)

so that a long text counts for more than a short one, and padding for nothing. Uncertainty is that
of the next token, averaged over a row: entropy of the averaged distribution (total), mean entropy
of the draws' (aleatoric), and their difference (epistemic).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any, ClassVar

import numpy as np

from bhpeft.tasks.scored import Figures, Headline, ReliabilityBin

_NAN = float("nan")

FIGURES = Figures(
    headline=Headline("nll", "NLL a token", higher=False),
    plain=("nll", "perplexity", "tokens", "entropy", "mutual_information"),
    answer="",
)


@dataclass(frozen=True)
class TextQuality:
    """One model on one set of texts; every figure is NaN where it has no rows or no numbers.

    Attributes:
        nll, perplexity: of a token, over all true tokens of all rows.
        tokens: how many there are.
        entropy, mutual_information: of the next token, means over rows, in nats.
        reliability, rejection: empty; a text has no answer to be right about.
    """

    figures: ClassVar[Figures] = FIGURES

    nll: float = _NAN
    perplexity: float = _NAN
    tokens: float = _NAN
    entropy: float = _NAN
    mutual_information: float = _NAN
    reliability: tuple[ReliabilityBin, ...] = ()
    rejection: tuple[tuple[float, float], ...] = ()


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
        """Return what a drift table shows of the predictions."""
        return {"predictions": {"uncertainty": self.uncertainty}}

    def quality(self, rng: np.random.Generator) -> TextQuality:
        """Return NLL, perplexity and uncertainty."""
        tokens = float(self.weights.sum())
        if not self.rows or not tokens or not self.finite:
            return TextQuality()
        nll = float(self.nll_rows.sum() / tokens)
        return TextQuality(
            nll=nll,
            perplexity=float(np.exp(min(nll, 700.0))),
            tokens=tokens,
            entropy=float(self.uncertainty.mean()),
            mutual_information=float(self.mutual_information.mean()),
        )

    def statistics(self) -> TextStatistics:
        """Return the one metric whose difference is reported."""
        return TextStatistics(self)


class TextStatistics:
    """Turn resample counts (R, N) into a token's NLL (R, 1): rows are drawn, tokens counted."""

    names = ("nll",)

    def __init__(self, scored: Texts):
        self.sums = np.column_stack([scored.nll_rows, scored.weights])

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """Return the metric of each resample."""
        sums = counts @ self.sums.astype(counts.dtype)
        return np.asarray(sums[:, :1] / np.maximum(sums[:, 1:], 1.0))

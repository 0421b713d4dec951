"""Score averaged probabilities: accuracy, NLL, Brier, calibration error, accuracy under rejection.

All in float64, all as averages over rows, never over minibatches. `mean` is always the posterior
predictive (N, C) and `labels` (N,) integers.

Sources: expected calibration error, Guo et al. 2017 (arXiv 1706.04599), eq. 3, with 15 equal-width
bins of the top label; the consistency resampling behind `ece_null`, Bröcker and Smith 2007
(doi 10.1175/WAF993.1); accuracy–rejection curves, Nadeem et al. 2009 (MLSB).
"""

from __future__ import annotations

import numpy as np

from bhpeft.tasks.scored import ReliabilityBin

BINS = 15
# The smallest normal float64: an impossible label costs 708 nats, and not infinity.
_TINY = float(np.finfo(np.float64).tiny)


def accuracy(mean: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose top label is right."""
    return float(correct_rows(mean, labels).mean())


def nll(mean: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the averaged probabilities, in nats a row."""
    return float(nll_rows(mean, labels).mean())


def brier(mean: np.ndarray, labels: np.ndarray) -> float:
    """Return the Brier score summed over classes (0 … 2), averaged over rows."""
    return float(brier_rows(mean, labels).mean())


def ece(mean: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error of the top label, 15 equal-width bins, L1.

    Written out, though torchmetrics has it, for three reasons seen there: it counts in float32, it
    gives a confidence of exactly 1 a sixteenth bin, and it reads a probability an ulp above 1,
    which averages do reach, as a logit, and silently takes a softmax of everything. Apart
    from these the two agree (tests).
    """
    confidence = mean.max(1)
    residuals = (correct_rows(mean, labels) - confidence)[None]
    return float(ece_of_residuals(residuals, bin_of(confidence))[0])


def ece_null(
    mean: np.ndarray, *, draws: int = 500, rng: np.random.Generator, coverage: float = 0.95
) -> tuple[float, float]:
    """Return the range of ECE a *perfectly calibrated* model with these probabilities would show.

    Labels are drawn from the probabilities themselves. Only whether the top label comes up matters
    to ECE, so each row is one coin with its confidence as probability. On 500 rows the range
    reaches 5 %: an ECE inside it says nothing against the model.
    """
    confidence = mean.max(1)
    right = rng.random((draws, len(confidence))) < confidence
    errors = ece_of_residuals(right - confidence, bin_of(confidence))
    tail = (1 - coverage) / 2
    low, high = np.quantile(errors, [tail, 1 - tail])
    return float(low), float(high)


def nll_rows(mean: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's negative log-likelihood (N,), in nats."""
    return np.asarray(-np.log(np.maximum(mean[np.arange(len(labels)), labels], _TINY)))


def brier_rows(mean: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's Brier score (N,)."""
    return np.asarray(((mean - np.eye(mean.shape[1])[labels]) ** 2).sum(1))


def correct_rows(mean: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1.0 for each row (N,) whose top label is right, else 0.0."""
    return np.asarray(mean.argmax(1) == labels, dtype=np.float64)


def bin_of(confidence: np.ndarray) -> np.ndarray:
    """Return the calibration bin, 0 … 14, of each confidence (N,)."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    return np.clip(np.digitize(confidence, edges) - 1, 0, BINS - 1)


def ece_of_residuals(residuals: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Return the ECE (R,) of R sets of residuals (R, N), each right − confidence.

    Σ_b (n_b/N) |accuracy_b − confidence_b| is Σ_b |Σ_{i in b} residual_i| / N: one product with
    the bins' membership matrix serves a whole bootstrap.
    """
    return np.asarray(np.abs(residuals @ np.eye(BINS)[bins]).sum(-1) / len(bins))


def reliability_table(mean: np.ndarray, labels: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """Return confidence and accuracy of the top label in each of the 15 bins that have rows."""
    confidence, right = mean.max(1), correct_rows(mean, labels)
    bins, width = bin_of(confidence), 1.0 / BINS
    return tuple(
        ReliabilityBin(
            low=float(b * width),
            high=float((b + 1) * width),
            rows=int((bins == b).sum()),
            confidence=float(confidence[bins == b].mean()),
            accuracy=float(right[bins == b].mean()),
        )
        for b in np.unique(bins)
    )


def accuracy_at_rejection(
    mean: np.ndarray, labels: np.ndarray, entropy: np.ndarray, share: float = 0.2
) -> float:
    """Return the accuracy on the rows kept when the `share` with the highest entropy is refused."""
    order, right = by_entropy(entropy, correct_rows(mean, labels))
    return float(kept_accuracy(np.ones((1, len(order))), right, share)[0])


def rejection_curve(
    mean: np.ndarray, labels: np.ndarray, entropy: np.ndarray, points: int = 19
) -> tuple[tuple[float, float], ...]:
    """Return (share refused, accuracy of the rest) from none refused to 90 % refused."""
    return kept_curve(entropy, correct_rows(mean, labels), points)


def kept_curve(
    uncertainty: np.ndarray, values: np.ndarray, points: int = 19
) -> tuple[tuple[float, float], ...]:
    """Return (share refused, mean value of the rest) from none refused to 90 % refused."""
    order, ordered = by_entropy(uncertainty, values)
    ones = np.ones((1, len(order)))
    return tuple(
        (float(share), float(kept_accuracy(ones, ordered, share)[0]))
        for share in np.linspace(0.0, 0.9, points)
    )


def by_entropy(entropy: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of rows by rising entropy (N,), and correctness (N,) in that order.

    Rows of equal entropy share their mean correctness: which of them is refused first would be
    an accident of the order they came in, and the baseline has only ties.
    """
    _, group = np.unique(np.round(entropy, 12), return_inverse=True)
    shared = np.bincount(group, weights=right) / np.bincount(group)
    order = np.argsort(group, kind="stable")
    return order, shared[group][order]


def kept_accuracy(weights: np.ndarray, right: np.ndarray, share: float) -> np.ndarray:
    """Return the accuracy (R,) of the rows kept, for R weightings (R, N) of rows in entropy order.

    The last row kept counts by the fraction of it that still fits, so the curve is continuous.
    """
    keep = weights.sum(1, keepdims=True) * (1.0 - share)
    # What still fits when a row's turn comes is keep minus all weight before it.
    kept = np.cumsum(weights, 1)
    np.subtract(weights + keep, kept, out=kept)
    np.minimum(kept, weights, out=kept)
    np.maximum(kept, 0.0, out=kept)
    return np.asarray((kept @ right) / keep[:, 0])

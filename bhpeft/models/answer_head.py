"""Say how likely a causal language model makes each answer to a question, read out after it.

A row holds a question and its answers (`bhpeft.models.packing`). The model reads a sequence an
answer, the question first; what counts is the log-likelihood of the answer's own tokens. For an
answer that a row does not have the question is read alone, and it gets `NEVER`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bhpeft.methods import Site
from bhpeft.models.encode import padded
from bhpeft.models.load import LoadedBase
from bhpeft.models.packing import parts_of
from bhpeft.models.token_head import TokenHead

# Nats below any answer of a few hundred tokens; finite, so that differences of logits are numbers.
NEVER = -1e3


class AnswerHead(nn.Module):
    """The frozen output rows of a causal language model, at the tokens of each answer."""

    pooling = "every"
    rows: tuple[str, ...] = ()
    several = True

    def __init__(self, base: LoadedBase, answers: int, per_token: bool):
        super().__init__()
        self.tokens = TokenHead(base)
        self.width = self.tokens.width
        self.answers, self.per_token = answers, per_token
        self.pad = int(base.tokenizer.pad_token_id)

    def reads(self, minibatch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a sequence for each answer of each row, (B·K, T), row after row.

        `predicted` (B·K, T − 1) says which tokens are the answer's, `there` (B, K) which there are.
        """
        sequences: list[list[int]] = []
        begins: list[int] = []
        lengths = minibatch["attention_mask"].sum(1).tolist()
        there = torch.zeros(len(lengths), self.answers, dtype=torch.bool)
        for row, ids in enumerate(minibatch["input_ids"].tolist()):
            question, *answers = parts_of(ids[: lengths[row]], self.pad)
            question = question or [self.pad]
            there[row, : len(answers)] = torch.tensor([bool(one) for one in answers])
            for at in range(self.answers):
                answer = answers[at] if at < len(answers) else []
                sequences.append(question + answer)
                begins.append(len(question))
        made = padded(sequences, self.pad)
        places = torch.arange(1, made["input_ids"].shape[1])
        real = made["attention_mask"][:, 1:].bool()
        predicted = real & (places >= torch.tensor(begins)[:, None])
        return {**made, "predicted": predicted, "there": there}

    def forward(self, hidden: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map hidden (S·B·K, T, d) to the answers' log-likelihoods (S·B, K)."""
        ids, predicted, there = (
            minibatch[name].to(hidden.device) for name in ("input_ids", "predicted", "there")
        )
        sums, many = self.tokens.sums(hidden, ids, predicted)
        said = sums[..., 0].flatten()
        said = said / many.clamp(min=1) if self.per_token else said
        said = said.reshape(-1, *there.shape)
        return said.where(there, NEVER).flatten(0, 1)

    def sites(self) -> list[Site]:
        """Return nothing: the output rows are frozen."""
        return []

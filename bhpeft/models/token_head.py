"""Say how likely a causal language model makes the texts it reads, token by token.

Only true tokens that have one before them are predicted. Their hidden states meet the frozen output
rows a few hundred at a time, because a logit for every word of the vocabulary, token and draw at
once would be the largest tensor of the whole model; with gradients a piece is computed again in the
backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bhpeft.methods import Site
from bhpeft.methods.sampled import tile
from bhpeft.models.load import LoadedBase, vocabulary_of

# Tokens times draws whose logits are held at once: 256 of them over 50,000 words are 50 MB.
PIECE = 256


class TokenHead(nn.Module):
    """The frozen output rows of a causal language model, at every token."""

    pooling = "every"
    rows: tuple[str, ...] = ()
    several = False

    def __init__(self, base: LoadedBase):
        super().__init__()
        self.width = int(base.model.config.hidden_size)
        self.register_buffer("weight", vocabulary_of(base).detach(), persistent=False)

    def reads(self, minibatch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the minibatch: the model reads its rows."""
        return minibatch

    def forward(self, hidden: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Map hidden (S·B, T, d) to (S·B, 4).

        Returns:
            Of each draw and row: its log-likelihood, of how many tokens, and a token's mean entropy
            under the draw and under the average of all draws; the entropies without gradients.
        """
        ids = minibatch["input_ids"].to(hidden.device)
        real = minibatch["attention_mask"].to(hidden.device).bool()
        sums, tokens = self.sums(hidden, ids, real[:, 1:] & real[:, :-1])
        likelihood, own, whole = sums.flatten(0, 1).unbind(-1)
        many = tokens.clamp(min=1)
        return torch.stack([likelihood, tokens, own / many, whole / many], dim=-1)

    def sums(self, hidden: Tensor, ids: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is said of some tokens of each row, summed.

        Args:
            hidden: (S·B, T, d).
            ids: (B, T).
            predicted: (B, T − 1) bool, whether the token after each place counts.

        Returns:
            (S, B, 3), log-likelihood and the entropies under the draw and all draws; and (S·B,), of
            how many tokens.
        """
        rows, draws = len(ids), len(hidden) // len(ids)
        row, place = torch.nonzero(predicted, as_tuple=True)
        states = hidden.reshape(draws, rows, *hidden.shape[1:])[:, row, place]
        words = ids[row, place + 1]
        pieces = []
        for start in range(0, len(words), max(1, PIECE // draws)):
            part = slice(start, start + max(1, PIECE // draws))
            given = states[:, part], words[part]
            pieces.append(
                checkpoint(self._piece, *given, use_reentrant=False)
                if states.requires_grad
                else self._piece(*given)
            )
        sums = hidden.new_zeros(draws, rows, 3, dtype=torch.float32)
        if pieces:
            sums = sums.index_add(1, row, torch.cat(pieces, dim=1))
        return sums, tile(torch.bincount(row, minlength=rows).float(), draws)

    def sites(self) -> list[Site]:
        """Return nothing: the output rows are frozen."""
        return []

    def _piece(self, states: Tensor, words: Tensor) -> Tensor:
        """Map states (S, n, d) of tokens before `words` (n,) to (S, n, 3)."""
        weight = self.get_buffer("weight")
        logs = (states.to(weight.dtype) @ weight.T).float().log_softmax(-1)
        likelihood = logs.gather(-1, words.expand(len(states), -1)[..., None])[..., 0]
        with torch.no_grad():
            probabilities = logs.exp()
            own = -(probabilities * logs).sum(-1)
            whole = torch.special.entr(probabilities.mean(0)).sum(-1).expand_as(own)
        return torch.stack([likelihood, own, whole], dim=-1)

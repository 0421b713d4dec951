"""Train peft LoRA the way Hugging Face's guides do: Dataset, DataLoader, padding, AdamW.

A `DataLoader` shuffles rows into minibatches, which are padded to the longest of their rows
(`DataCollatorWithPadding`, as in the text classification guide) or all to the same length
(`padding="max_length"`, as in the fine-tuning tutorial).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from benchmarks.peers.problem import SEED, Problem
from benchmarks.peers.stock import LEARNING_RATE, Classifier
from bhpeft.models.load import load_base

SIZE = 16

# Called after each step with its number, its loss and its learning rate.
Told = Callable[[int, Tensor, float], None]


class Loop:
    """One training run, an epoch at a time."""

    def __init__(self, problem: Problem, padding: str, epochs: int = 1):
        self.problem, self.padding = problem, padding
        self.tokenizer = load_base(problem.base, layers=problem.layers).tokenizer
        self.model = Classifier(problem)
        self._optimiser = torch.optim.AdamW(self.model.learned().values(), lr=LEARNING_RATE)
        self._epochs, self._done, self._rows = epochs, 0, Generator().manual_seed(SEED)

    def epoch(self, texts: Sequence[str], labels: Sequence[int], told: Told | None = None) -> None:
        """Pass over the rows once; learning rates fall linearly over the run, as Trainer's do."""
        loader = self._loader(texts, labels)
        steps = len(loader) * self._epochs
        for step, given in enumerate(loader, len(loader) * self._done):
            rate = LEARNING_RATE * (1 - step / steps)
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            loss = cross_entropy(self.model(given), given["labels"])
            loss.backward()
            self._optimiser.step()
            self._optimiser.zero_grad()
            if told is not None:
                told(step, loss.detach(), rate)
        self._done += 1

    def nll(self, texts: Sequence[str], labels: Sequence[int]) -> float:
        """Return the mean NLL of rows."""
        return float(cross_entropy(self.logits(texts), torch.tensor(labels)))

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """Return the logits of rows, (N, C), 64 at a time and padded to the longest of them."""
        return torch.cat(
            [
                self.model(dict(self._encoded(texts[at : at + 64], padding=True, as_tensors="pt")))
                for at in range(0, len(texts), 64)
            ]
        )

    def _loader(self, texts: Sequence[str], labels: Sequence[int]) -> DataLoader:
        encoded = self._encoded(texts, padding=self.padding)
        rows = [
            {"input_ids": ids, "attention_mask": mask, "label": label}
            for ids, mask, label in zip(
                encoded["input_ids"], encoded["attention_mask"], labels, strict=True
            )
        ]
        collate = DataCollatorWithPadding(self.tokenizer)
        return DataLoader(rows, SIZE, shuffle=True, collate_fn=collate, generator=self._rows)

    def _encoded(
        self, texts: Sequence[str], padding: str | bool, as_tensors: str | None = None
    ) -> dict[str, Tensor]:
        length = self.problem.minibatch["input_ids"].shape[1]
        return self.tokenizer(
            list(texts), truncation=True, max_length=length, padding=padding,
            return_tensors=as_tensors, return_token_type_ids=False,
        )  # fmt: skip

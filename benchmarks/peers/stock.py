"""Hugging Face peft LoRA: float32, sdpa, AdamW, a point estimate. What a user runs today."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.budget import Skipped
from benchmarks.peers.problem import SEED, Learner, Problem

LEARNING_RATE = 2e-3


class Classifier(nn.Module):
    """A base with peft's LoRA, and a linear head in float32."""

    def __init__(self, problem: Problem, dtype: str = "float32", dropout: float = 0.0):
        super().__init__()
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as problem_found:
            raise Skipped("peft is not installed; pip install bhpeft[bench]") from problem_found
        torch.manual_seed(SEED)
        wanted = LoraConfig(
            r=problem.rank,
            lora_alpha=problem.alpha,
            lora_dropout=dropout,
            target_modules=list(problem.targets),
        )
        self.base = get_peft_model(problem.load(dtype), wanted)
        self.head = nn.Linear(self.base.config.hidden_size, problem.labels)
        self.pooled = problem.pooled
        # A base's own dropout stays as the others have it: off. LoRA's is switched by its users.
        self.eval()

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """Map a minibatch to logits (B, C)."""
        ids, mask = given["input_ids"], given["attention_mask"]
        hidden = self.base(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head(self.pooled(hidden, mask).float())

    def learned(self) -> dict[str, nn.Parameter]:
        """Return what is trained: LoRA's matrices and the head, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def learner(problem: Problem, dtype: str = "float32") -> Learner:
    """Return a step of backpropagation and AdamW, and one deterministic pass."""
    model = Classifier(problem, dtype)
    return Learner(step_of(model, problem), lambda draws: passes(model, problem, 1))


def step_of(model: Classifier, problem: Problem) -> Callable[[], None]:
    """Return one step of AdamW on the model's trained weights."""
    optimiser = torch.optim.AdamW(model.learned().values(), lr=LEARNING_RATE)

    def step() -> None:
        cross_entropy(model(problem.minibatch), problem.minibatch["labels"]).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


@torch.no_grad()
def passes(model: nn.Module, problem: Problem, draws: int) -> Tensor:
    """Return the probabilities of so many passes, (K, B, C)."""
    return torch.stack([model(problem.minibatch).softmax(-1) for _ in range(draws)])

"""`torch.func.vmap`: K draws of peft's LoRA weights, stacked and mapped over in one call.

Only the prediction differs from what others do: the step is the stock one.

Source: PyTorch's tutorial on model ensembling with `stack_module_state` and `vmap`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from benchmarks.peers.problem import SEED, Learner, Problem
from benchmarks.peers.stock import Classifier, step_of

STD = 0.05


def learner(problem: Problem) -> Learner:
    """Return the stock step, and K draws around its weights in one call."""
    model = Classifier(problem)
    learned = model.learned()

    def one(weights: dict[str, Tensor]) -> Tensor:
        logits: Tensor = functional_call(model, weights, (dict(problem.minibatch),))
        return logits.softmax(-1)

    @torch.no_grad()
    def probabilities(draws: int) -> Tensor:
        source = torch.Generator().manual_seed(SEED)
        drawn = {
            name: weight + STD * torch.randn(draws, *weight.shape, generator=source)
            for name, weight in learned.items()
        }
        found: Tensor = vmap(one, randomness="different")(drawn)
        return found

    return Learner(step_of(model, problem), probabilities)

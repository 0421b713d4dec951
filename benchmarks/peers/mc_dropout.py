"""MC-dropout: peft's own LoRA dropout, on in training and in K passes of prediction.

Source: Gal and Ghahramani 2016 (arXiv 1506.02142).
"""

from __future__ import annotations

from torch import nn

from benchmarks.peers.problem import Learner, Problem
from benchmarks.peers.stock import Classifier, passes, step_of

RATE = 0.1


def learner(problem: Problem) -> Learner:
    """Return the stock step with dropout on LoRA's inputs."""
    model = Classifier(problem, dropout=RATE)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" in name:
            module.train()
    return Learner(step_of(model, problem), lambda draws: passes(model, problem, draws))

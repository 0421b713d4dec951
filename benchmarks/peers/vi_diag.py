"""`posteriors` vi.diag: mean-field variational inference on peft's LoRA by functional calls.

Source: the package posteriors (normal-computing), `posteriors.vi.diag`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from benchmarks.budget import Skipped
from benchmarks.peers.problem import Learner, Problem
from benchmarks.peers.stock import LEARNING_RATE, Classifier

PRIOR_STD, START_LOG_STD = 0.2, -3.0


def learner(problem: Problem) -> Learner:
    """Return one update of its transform, with torchopt's AdamW."""
    try:
        import posteriors
        import torchopt
    except ImportError as absent:
        raise Skipped("posteriors is not installed; pip install bhpeft[bench]") from absent
    model = Classifier(problem)
    start = {name: p.detach().clone() for name, p in model.learned().items()}

    def log_posterior(weights: dict[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
        logits = functional_call(model, weights, (batch,))
        prior = sum(w.square().sum() for w in weights.values()) / (2 * PRIOR_STD**2)
        return -cross_entropy(logits, batch["labels"]) - prior / problem.rows, torch.empty(0)

    transform = posteriors.vi.diag.build(
        log_posterior,
        torchopt.adamw(lr=LEARNING_RATE),
        temperature=1 / problem.rows,
        init_log_sds=START_LOG_STD,
    )
    kept = {"state": transform.init(start)}

    def step() -> None:
        kept["state"], _ = transform.update(kept["state"], problem.minibatch)

    @torch.no_grad()
    def probabilities(draws: int) -> Tensor:
        found = []
        for _ in range(draws):
            weights = posteriors.vi.diag.sample(kept["state"])
            found.append(functional_call(model, weights, (problem.minibatch,)).softmax(-1))
        return torch.stack(found)

    return Learner(step, probabilities)

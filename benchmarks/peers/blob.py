"""BLoB: a Gaussian on LoRA's A with flipout, as its paper states it; a module of wrapped layers.

    A ~ N(M, Ω²),  Ω = G²,  z = W x + s·B (M x) + s·B [ t ∘ ((E ∘ Ω) (h ∘ x)) ]

E is standard normal and shared by the minibatch, h and t are random signs, one vector a row; s is
α/r. The prior is N(0, σ_p²). AdamW moves everything on the NLL, SGD moves M and G on the KL.

Source: Wang et al. 2024 (arXiv 2406.11675), section 3 and Algorithm 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from benchmarks.peers.problem import SEED, Learner, Problem
from benchmarks.peers.stock import LEARNING_RATE, passes

PRIOR_STD, START = 0.2, 0.05


class BlobLinear(nn.Module):
    """A frozen linear layer with a Bayesian low-rank update."""

    def __init__(self, base: nn.Linear, rank: int, alpha: int):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        width = base.in_features
        bound = 1 / math.sqrt(width)
        self.mean = nn.Parameter(torch.empty(rank, width).uniform_(-bound, bound))
        self.root = nn.Parameter(torch.empty(rank, width).uniform_(START / math.sqrt(2), START))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, T, in) to (B, T, out) under one draw."""
        std = self.root.square()
        noise = torch.randn_like(std) * std
        down = linear(x, self.mean)
        inner, outer = _signs(x, x.shape[-1]), _signs(x, len(self.mean))
        down = down + linear(x * inner, noise) * outer
        return self.base(x) + linear(down, self.up) * self.scale

    def kl(self) -> Tensor:
        """Return KL( N(M, Ω²) ‖ N(0, σ_p²) ) in nats."""
        std = self.root.square()
        spread = (std.square() + self.mean.square()) / (2 * PRIOR_STD**2)
        return (spread + math.log(PRIOR_STD) - std.log() - 0.5).sum()


class Classifier(nn.Module):
    """A base whose target layers are BLoB's, and a linear head."""

    def __init__(self, problem: Problem):
        super().__init__()
        torch.manual_seed(SEED)
        self.base = problem.load().requires_grad_(False)
        self.layers = nn.ModuleList()
        for module in list(self.base.modules()):
            for name, child in list(module.named_children()):
                if name in problem.targets and isinstance(child, nn.Linear):
                    layer = BlobLinear(child, problem.rank, problem.alpha)
                    setattr(module, name, layer)
                    self.layers.append(layer)
        self.head = nn.Linear(self.base.config.hidden_size, problem.labels)
        self.pooled = problem.pooled
        self.eval()

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        """Map a minibatch to logits (B, C)."""
        ids, mask = given["input_ids"], given["attention_mask"]
        hidden = self.base(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.head(self.pooled(hidden, mask))


def learner(problem: Problem) -> Learner:
    """Return a step of both optimisers, and passes that each draw anew."""
    model = Classifier(problem)
    learned = [p for p in model.parameters() if p.requires_grad]
    gaussian = [p for layer in model.layers for p in (layer.mean, layer.root)]
    likelihood = torch.optim.AdamW(learned, lr=LEARNING_RATE)
    complexity = torch.optim.SGD(gaussian, lr=LEARNING_RATE)

    def step() -> None:
        cross_entropy(model(problem.minibatch), problem.minibatch["labels"]).backward()
        likelihood.step()
        likelihood.zero_grad()
        kl = sum(layer.kl() for layer in model.layers) / problem.rows
        kl.backward()
        complexity.step()
        complexity.zero_grad()

    return Learner(step, lambda draws: passes(model, problem, draws))


def _signs(x: Tensor, width: int) -> Tensor:
    """Return random signs (B, 1, width): a row's tokens share theirs."""
    return torch.randint(0, 2, (len(x), 1, width)).to(x.dtype) * 2 - 1

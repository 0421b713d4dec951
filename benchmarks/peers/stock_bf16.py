"""Hugging Face peft LoRA on a bfloat16 base; peft keeps its own matrices in float32."""

from __future__ import annotations

from benchmarks.peers import stock
from benchmarks.peers.problem import Learner, Problem


def learner(problem: Problem) -> Learner:
    """Return the stock step with the base in bfloat16."""
    return stock.learner(problem, "bfloat16")

"""Peers: what people use today, doing the same work on the same rows as ours.

Each module has `learner(problem) -> Learner`: one training step, and K draws of the predictive
where the method has any. `PEERS` finds them by name; one whose package is absent raises `Skipped`.

Written from the papers where no package serves: IVON (arXiv 2402.17641), BLoB (arXiv 2406.11675).
"""

from __future__ import annotations

import importlib

from benchmarks.peers.problem import Learner, Problem

__all__ = ["PEERS", "PREDICTING", "Learner", "Problem", "peer"]

PEERS = {
    "peft LoRA": "stock",
    "peft LoRA, bfloat16": "stock_bf16",
    "IVON": "ivon",
    "MC-dropout": "mc_dropout",
    "posteriors vi.diag": "vi_diag",
    "BLoB": "blob",
    "ensemble of 5": "ensemble",
    "vmap": "vmap",
    "laplace-torch fit, diagonal": "laplace_diag",
    "laplace-torch fit, KFAC": "laplace_kfac",
}
# What trains like another, and differs in its prediction alone.
PREDICTING = ("vmap",)


def peer(name: str, problem: Problem) -> Learner:
    """Return the learner called `name`, at its start."""
    found: Learner = importlib.import_module(f"benchmarks.peers.{PEERS[name]}").learner(problem)
    return found

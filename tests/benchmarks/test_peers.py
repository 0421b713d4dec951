"""Peers do what their papers say: an unfair peer would make every figure worthless."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.peers import PEERS, peer
from benchmarks.peers.blob import PRIOR_STD, BlobLinear
from benchmarks.peers.ivon import Ivon
from benchmarks.peers.plain_round import PlainRound
from benchmarks.peers.problem import Problem, minilm


@pytest.fixture(scope="module")
def problem() -> Problem:
    return minilm(4, 12, labels=3, layers=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_steps_and_draws_probabilities(name: str, problem: Problem) -> None:
    learner = peer(name, problem)
    learner.step()
    assert learner.probabilities is not None
    probs = learner.probabilities(4)
    assert probs.shape[1:] == (4, 3)
    assert torch.allclose(probs.sum(-1), torch.ones(probs.shape[:2]), atol=1e-5)
    if not name.startswith("peft"):
        assert len(probs) == 4
        assert not torch.allclose(probs[0], probs[1]), "its draws are one and the same"


def test_ivon_finds_the_posterior_of_a_quadratic() -> None:
    """With ℓ(θ) = ½ a (θ − b)², the Gaussian's precision is N (a + δ) and its mean near b.

    The curvature of the loss is a exactly, and IVON's h is an estimate of just that.
    """
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.zeros(2000))
    a, b, rows, decay = 2.0, 0.7, 100, 1e-4
    optimiser = Ivon([parameter], rows, rate=0.1, betas=(0.9, 0.99), decay=decay, start=1.0)
    for _ in range(1500):
        optimiser.step(lambda: (0.5 * a * (parameter - b).square()).sum())
    assert float(optimiser.mean.mean()) == pytest.approx(b, abs=0.01)
    assert float(optimiser.std.mean()) == pytest.approx((rows * (a + decay)) ** -0.5, rel=0.05)


def test_blob_s_flipout_has_the_mean_and_variance_of_its_gaussian() -> None:
    """Flipout changes how rows share noise, never the distribution of one row's output."""
    torch.manual_seed(0)
    layer = BlobLinear(nn.Linear(6, 1, bias=False), rank=2, alpha=2)
    nn.init.ones_(layer.up)
    with torch.no_grad():
        layer.root.copy_(torch.full_like(layer.root, 0.5))
    x = torch.tensor([[[1.0, 2.0, 0.0, -1.0, 0.5, 0.0]]])
    with torch.no_grad():
        draws = torch.stack([layer(x).squeeze() for _ in range(5_000)])
        middle = layer.base(x).squeeze() + (x @ layer.mean.T).sum()
    std = (2 * 0.25**2 * float(x.square().sum())) ** 0.5
    assert float(draws.mean()) == pytest.approx(float(middle), abs=4 * std / 5_000**0.5)
    assert float(draws.std()) == pytest.approx(std, rel=0.04)


def test_blob_s_kl_is_that_of_two_normals() -> None:
    layer = BlobLinear(nn.Linear(6, 3), rank=2, alpha=2)
    q = torch.distributions.Normal(layer.mean, layer.root.square())
    prior = torch.distributions.Normal(torch.zeros_like(layer.mean), PRIOR_STD)
    truth = torch.distributions.kl_divergence(q, prior).sum()
    assert layer.kl().item() == pytest.approx(truth.item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_plain_round_goes_on_from_the_champion_it_registered(tmp_path: Path) -> None:
    """What the new champion says of the first hold-out is what was written down of the first."""
    texts = [f"{word} film {i}" for i in range(6) for word in ("good", "bad")]
    rows = pd.DataFrame({"text": texts, "label": ["positive", "negative"] * 6})
    script = PlainRound(tmp_path, minilm(4, 12, layers=1), ("negative", "positive"), epochs=1)
    first = script.run(rows, rows.head(6))
    second = script.run(rows.tail(6), rows.tail(4))
    assert set(first) == {"candidate/holdout"}
    assert second["champion/earlier_1"] == pytest.approx(first["candidate/holdout"])
    assert second["candidate/earlier_1"] != pytest.approx(first["candidate/holdout"])

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from bhpeft.errors import ConfigError, StateError
from bhpeft.posterior import MeanField
from bhpeft.posterior.hierarchy import Hyper, Population, centred, population, updated

SHAPES = {"1.a": (40, 5), "2.a": (50, 4)}
SIZE = 400


def block(name: str) -> str:
    return name.split(".")[0]


def base(std: float = 0.5) -> MeanField:
    return MeanField.from_std(torch.zeros(SIZE), torch.full((SIZE,), std), SHAPES)


def tasks(count: int, centre: Tensor, spread: Tensor, std: float, seed: int = 0) -> list[MeanField]:
    source = Generator().manual_seed(seed)
    found = (centre + spread * torch.randn(SIZE, generator=source) for _ in range(count))
    return [MeanField.from_std(mean, torch.full((SIZE,), std), SHAPES) for mean in found]


def fitted(known: Population, posteriors: list[MeanField], hyper: Hyper, times: int) -> Population:
    for _ in range(times):
        known = updated(known, posteriors, hyper)
    return known


def negative_elbo(mean: Tensor, log_tau: Tensor, posteriors: list[MeanField], h: Hyper) -> Tensor:
    """Return −E_q[log p(θ, Θ, τ)] as it depends on Θ and τ of one block, written from the model."""
    tau = log_tau.exp()
    loss = 0.5 * mean.square().sum() / h.mean_std**2 - (h.shape * log_tau - h.rate * tau)
    for q in posteriors:
        gap = (q.mean.double() - mean).square() + q.std.double().square()
        loss = loss + (0.5 * tau * gap - 0.5 * log_tau).sum()
    return loss


def test_the_updates_converge_to_the_stationary_point_of_the_elbo() -> None:
    """Autograd's gradient of the expected log joint is zero there, in Θ and in log τ."""
    hyper = Hyper(held=0)
    posteriors = tasks(5, torch.full((SIZE,), 0.7), torch.full((SIZE,), 0.2), 0.1)
    known = fitted(population(base(), lambda _: "all"), posteriors, hyper, 200)
    mean = known.mean.double().requires_grad_()
    log_tau = torch.tensor(known.tau["all"], dtype=torch.float64).log().requires_grad_()
    # The mode of τ in log τ has a0 where its mean has it too: that is the closed form's.
    negative_elbo(mean, log_tau, posteriors, hyper).backward()
    assert mean.grad is not None
    assert log_tau.grad is not None
    assert float(mean.grad.abs().max()) < 1e-3
    assert abs(float(log_tau.grad)) < 1e-6 * SIZE * 5


def test_learned_tau_finds_how_alike_the_tasks_of_each_block_are() -> None:
    """The first block's tasks differ by 0.1, the second's by 1.0; known posteriors, 40 tasks."""
    spread = torch.cat([torch.full((200,), 0.1), torch.full((200,), 1.0)])
    centre = torch.randn(SIZE, generator=Generator().manual_seed(3))
    posteriors = tasks(40, centre, spread, 1e-3)
    known = fitted(population(base(), block), posteriors, Hyper(mean_std=10.0), 30)
    # Θ is fitted too, which takes one of the forty degrees of freedom.
    assert known.tau["1"] ** -0.5 == pytest.approx(0.1, rel=0.03)
    assert known.tau["2"] ** -0.5 == pytest.approx(1.0, rel=0.03)
    assert float((known.mean[:200] - centre[:200]).abs().mean()) < 0.02


def test_theta_is_the_exact_posterior_mean_of_a_conjugate_normal() -> None:
    """Exact task values under a known τ: precision D·τ + 1/s_Θ², mean τ·Σ/that."""
    posteriors = tasks(7, torch.full((SIZE,), 2.0), torch.full((SIZE,), 0.5), 1e-3)
    known = updated(population(base(0.5), block), posteriors, Hyper(mean_std=0.3))
    total = torch.stack([q.mean for q in posteriors]).sum(0)
    expected = 4.0 * total / (7 * 4.0 + 1 / 0.3**2)
    torch.testing.assert_close(known.mean, expected)
    prior = known.prior()
    torch.testing.assert_close(prior.mean, known.mean)
    torch.testing.assert_close(prior.std, torch.full((SIZE,), 0.5))


def test_tau_is_held_for_the_first_updates_and_capped_when_tasks_look_alike() -> None:
    """Without either it locks at infinity before a task has moved."""
    alike = tasks(3, torch.zeros(SIZE), torch.zeros(SIZE), 1e-6)
    start = population(base(), block)
    hyper = Hyper(held=2, cap=500.0, rate=1e-9)
    for _ in range(2):
        start = updated(start, alike, hyper)
        assert start.tau == {"1": pytest.approx(4.0), "2": pytest.approx(4.0)}
    assert updated(start, alike, hyper).tau == {"1": 500.0, "2": 500.0}


def test_a_population_without_tasks_is_the_base_prior() -> None:
    prior = population(base(0.3), block).prior()
    torch.testing.assert_close(prior.std, base(0.3).std)
    assert torch.equal(prior.mean, base().mean)
    with pytest.raises(ConfigError, match="without tasks"):
        updated(population(base(), block), [], Hyper())


def test_posteriors_of_another_gauge_or_layout_are_refused() -> None:
    two = tasks(2, torch.zeros(SIZE), torch.ones(SIZE), 0.1)
    with pytest.raises(StateError, match=r"different gauges.*gauge b.*gauge a.*one seed"):
        updated(population(base(), block), two, Hyper(), gauges=("a", "b"))
    other = MeanField(torch.zeros(3), torch.zeros(3), {"w": (3,)})
    with pytest.raises(StateError, match="different weights"):
        updated(population(base(), block), [other], Hyper())


def test_a_task_without_some_of_the_weights_tells_about_the_others_alone() -> None:
    """Θ and τ of a block are what they would be without the task that lacks it."""
    three = tasks(3, torch.full((SIZE,), 0.7), torch.full((SIZE,), 0.2), 0.1)
    part = MeanField(three[0].mean[:200], three[0].rho[:200], {"1.a": (40, 5)})
    hyper, known = Hyper(held=0), population(base(), block)
    found = updated(known, [part, *three[1:]], hyper)
    whole, without = updated(known, three, hyper), updated(known, three[1:], hyper)
    torch.testing.assert_close(found.mean[:200], whole.mean[:200])
    torch.testing.assert_close(found.mean[200:], without.mean[200:])
    assert found.tau == {"1": whole.tau["1"], "2": without.tau["2"]}


def test_centring_moves_theta_alone() -> None:
    posteriors = tasks(3, torch.full((SIZE,), 0.7), torch.full((SIZE,), 0.2), 0.1)
    known = population(base(), block)
    found = centred(known, posteriors, Hyper(held=0))
    assert (found.tau, found.updates) == (known.tau, 0)
    assert torch.equal(found.mean, updated(known, posteriors, Hyper(held=9)).mean)


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"shape": -1.0}, {"cap": 0.0}, {"held": -1}])
def test_an_improper_hyperprior_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="not proper"):
        Hyper(**wrong)  # type: ignore[arg-type]

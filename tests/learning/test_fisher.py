from __future__ import annotations

import torch

from bhpeft.learning.fisher import MEMORY, Fisher
from tests import tiny

ROWS, WEIGHTS, SIZE = 4000, 12, 10


def scores(rows: int = ROWS) -> torch.Tensor:
    """Return each row's score (y − p)·x of a logistic model at its true weights, (rows, P)."""
    source = tiny.generator(4)
    x = torch.randn(rows, WEIGHTS, generator=source) * torch.linspace(0.5, 2.0, WEIGHTS)
    p = torch.sigmoid(x @ (0.3 * torch.randn(WEIGHTS, generator=source)))
    y = (torch.rand(rows, generator=source) < p).float()
    return (y - p)[:, None] * x


def test_the_squared_minibatch_gradient_times_its_rows_estimates_one_rows_information() -> None:
    """Var(ḡ) = F/B at the optimum, so E[B·ḡ²] = F: compared with per-example squares."""
    each = scores()
    fisher = Fisher(WEIGHTS, torch.device("cpu"))
    estimates = []
    for minibatch in torch.split_with_sizes(each, [SIZE] * (ROWS // SIZE)):
        fisher.add(minibatch.mean(0), SIZE)
        estimates.append(fisher.one_row.clone())
    exact = each.square().mean(0)
    # Each entry of the average over steps: 400 nearly independent χ²₁ numbers, relative sd 0.07.
    ratio = torch.stack(estimates).mean(0) / exact
    assert float((ratio - 1).abs().max()) < 4 * 0.07
    # And over all weights: sd 0.02.
    assert abs(float(ratio.mean()) - 1) < 4 * 0.02


def test_forgetting_the_rows_would_be_wrong_by_that_factor() -> None:
    """ḡ² alone is F/B: the estimate knows how many rows a minibatch had."""
    each = scores(400)
    one, two = (Fisher(WEIGHTS, torch.device("cpu")) for _ in range(2))
    one.add(each.mean(0), 400)
    two.add(each.mean(0), 200)
    torch.testing.assert_close(one.one_row, 2 * two.one_row)


def test_with_one_draw_an_example_each_rows_score_is_known_and_nothing_is_assumed() -> None:
    """(B, P) gradients of the *mean* NLL: the mean over rows of the squared row scores, exactly."""
    each = scores(SIZE)
    fisher = Fisher(WEIGHTS, torch.device("cpu"))
    fisher.add(each / SIZE, SIZE)
    torch.testing.assert_close(fisher.one_row, each.square().mean(0))


def test_the_average_is_corrected_for_its_start_and_forgets_it() -> None:
    """The first gradients of a round are large because nothing is learned yet."""
    fisher = Fisher(1, torch.device("cpu"))
    assert fisher.one_row.tolist() == [0.0]
    for _ in range(3):
        fisher.add(torch.tensor([2.0]), 1)
    torch.testing.assert_close(fisher.one_row, torch.tensor([4.0]))
    for _ in range(400):
        fisher.add(torch.tensor([1.0]), 1)
    assert 1.0 <= float(fisher.one_row) < 1.0 + 3 * MEMORY**400 + 1e-5

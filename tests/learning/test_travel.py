"""Where a round's σ may end: what its rows can have done to it, and no further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bhpeft.learning.fit import fit
from bhpeft.learning.travel import within_reach
from bhpeft.posterior import MeanField
from tests import tiny
from tests.learning import problems


def test_a_later_rounds_sigma_goes_no_further_than_its_rows_can_take_it(tmp_path: Path) -> None:
    """At rho's rate of 1.0 chance alone would take it nats away, and rounds would add that up."""
    state, widths = problems.lesson(tmp_path).start, []
    state = problems.later(state)
    for seed in range(3):
        given = problems.lesson(tmp_path, state=state, first=False)
        state = fit(given, tiny.generator(seed)).state
        widths.append(state.posterior.std / given.prior.std)
        assert float(widths[-1].max()) <= 1.0 + 1e-6
        # Rows narrow it, if little: in the mean by what the mean curvature allows.
        assert 0.9 < float(widths[-1].mean()) < 1.0
        assert float((widths[-1] < 1.0 - 1e-6).float().mean()) > 0.2


@pytest.mark.parametrize("start_std", [0.03, 0.3])
def test_sigma_may_end_where_its_round_began(tmp_path: Path, start_std: float) -> None:
    given = problems.lesson(tmp_path, first=False)
    started = MeanField.from_std(
        given.start.posterior.mean,
        torch.full_like(given.start.posterior.rho, start_std),
        given.start.posterior.shapes,
    )
    given = replace(given, start=replace(given.start, posterior=started))
    assert torch.equal(
        within_reach(given, started, given.prior, torch.zeros(started.size)).rho, started.rho
    )


def test_a_first_rounds_sigma_is_left_as_it_is(tmp_path: Path) -> None:
    given = problems.lesson(tmp_path)
    wide = MeanField.from_std(
        given.prior.mean, 3 * given.prior.std, given.prior.shapes, given.prior.scale
    )
    assert within_reach(given, wide, given.prior, torch.zeros(wide.size)) is wide

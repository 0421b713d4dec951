from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bhpeft.errors import ConfigError
from bhpeft.learning.complete import complete, unchanged
from bhpeft.learning.finishes import Selection
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.predict import Predictor
from bhpeft.learning.training_free import (
    HALVINGS,
    TOLERANCE,
    _spread,
    _widest,
    training_free,
    turned,
)
from bhpeft.learning.variants import BLOB, POINT, TFB
from bhpeft.posterior import MeanField, unflatten
from tests import tiny
from tests.learning import problems

TEXTS = problems.texts(40, seed=9)
SELECTION = Selection(TEXTS, np.array(problems.labels(TEXTS), dtype=np.int64))
EMPTY = Selection((), np.empty(0, dtype=np.int64))


def learned(folder: Path, family: str = "bert") -> Lesson:
    """Return a first round whose LoRA is anywhere but at zero."""
    lesson = problems.lesson(folder, family=family, variant=TFB)
    return replace(lesson, start=problems.later(lesson.start))


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_turning_the_axes_changes_nothing_but_makes_bs_columns_orthogonal(
    tmp_path: Path, family: str
) -> None:
    lesson = learned(tmp_path, family)
    state = turned(lesson.start)
    before, after = (Predictor(lesson.model, one).logits for one in (lesson.start, state))
    recipe = (
        Predictor(lesson.model, lesson.start).recipe(0),
        Predictor(lesson.model, state).recipe(0),
    )
    torch.testing.assert_close(before(TEXTS, recipe[0]), after(TEXTS, recipe[1]), atol=1e-5, rtol=0)
    for name, value in state.point.items():
        if name.endswith("lora.b"):
            gram = value.t() @ value
            assert float((gram - gram.diag().diag()).abs().max()) < 1e-5
    # The base prior turns with it: what was known before is the same function too.
    moved = replace(
        lesson.start, prior=replace(lesson.start.prior, mean=lesson.start.posterior.mean)
    )
    torch.testing.assert_close(turned(moved).prior.mean, turned(moved).posterior.mean)


def test_one_sigma_is_isotropic_noise_on_the_weight(tmp_path: Path) -> None:
    """σ_q on every axis of B's columns: W's noise has the covariance σ_q² U Uᵀ in each column."""
    lesson = learned(tmp_path)
    state = turned(lesson.start)
    names = [n for n in state.posterior.shapes if n.endswith("lora.a")]
    lengths = {a: state.point[a[:-1] + "b"].norm(dim=0) for a in names}
    sigma = 1e-3 * _widest(state, lengths)
    wide = _spread(state, lengths, sigma)
    for name, std in unflatten(wide.posterior.std, wide.posterior.shapes).items():
        b = state.point[name[:-1] + "b"]
        u = b / b.norm(dim=0)
        column = b @ torch.diag(std[:, 0].square()) @ b.t()
        torch.testing.assert_close(column, sigma**2 * u @ u.t(), rtol=1e-3, atol=1e-3 * sigma**2)


def test_the_widest_sigma_that_is_about_the_best_is_taken(tmp_path: Path) -> None:
    lesson = learned(tmp_path)
    state = training_free(lesson.start, lesson, SELECTION)
    base = turned(lesson.start)
    lengths = {a: base.point[a[:-1] + "b"].norm(dim=0) for a in base.posterior.shapes}
    tried = [_spread(base, lengths, _widest(base, lengths) / 2**k) for k in range(HALVINGS)]
    losses = [SELECTION.nll(lesson.model, one) for one in tried]
    chosen = next(
        k for k, one in enumerate(tried) if torch.equal(one.posterior.rho, state.posterior.rho)
    )
    assert losses[chosen] <= min(losses) * (1 + TOLERANCE)
    assert all(loss > min(losses) * (1 + TOLERANCE) for loss in losses[:chosen])
    assert len({round(loss, 6) for loss in losses}) > 3


def test_a_lora_that_does_nothing_is_as_wide_as_its_prior(tmp_path: Path) -> None:
    """B = 0: no noise of A is seen, and none is a division by zero."""
    lesson = problems.lesson(tmp_path, variant=TFB)
    state = training_free(lesson.start, lesson, SELECTION)
    torch.testing.assert_close(state.posterior.std, state.prior.std)


def test_a_later_round_keeps_its_axes_and_finds_a_sigma_anew(tmp_path: Path) -> None:
    found = complete(problems.lesson(tmp_path, variant=TFB), tiny.generator(), SELECTION).state
    q = found.posterior
    first = replace(found, posterior=MeanField.from_std(q.mean, q.std / 50, q.shapes))
    lesson = problems.lesson(tmp_path, variant=TFB, state=first, first=False)
    second = complete(lesson, tiny.generator(1), SELECTION).state
    assert float(second.posterior.std.median()) > 10 * float(first.posterior.std.median())
    for name, value in first.point.items():
        if name.endswith("lora.b"):
            # Moved by a few steps, and not turned: the columns are no longer quite orthogonal.
            for b, least, most in ((value, 0.0, 1e-5), (second.point[name], 1e-5, 1.0)):
                gram = b.t() @ b
                assert least <= float((gram - gram.diag().diag()).abs().max()) < most


@pytest.mark.parametrize("scale", ["softplus", "square"])
def test_it_keeps_the_states_own_scale(tmp_path: Path, scale: str) -> None:
    variant = replace(BLOB, scale=scale)
    lesson = problems.lesson(tmp_path, variant=variant)
    state = training_free(problems.later(lesson.start), lesson, SELECTION)
    assert state.posterior.scale == scale
    assert bool((state.posterior.std > 0).all())


def test_without_a_lora_or_without_rows_it_is_a_clear_error(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path, ["adapter"])
    with pytest.raises(ConfigError, match=r"0 LoRA factors.*expected a LoRA"):
        training_free(lesson.start, lesson, SELECTION)
    lesson = learned(tmp_path)
    with pytest.raises(ConfigError, match=r"0 selection rows.*data.selection"):
        training_free(lesson.start, lesson, EMPTY)


def test_one_checkpoint_is_no_ensemble(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path, variant=POINT)
    with pytest.raises(ConfigError, match=r"no ensemble; found 3 members"):
        unchanged(replace(lesson, start=lesson.start.with_spec(members=3)), tiny.generator(), EMPTY)

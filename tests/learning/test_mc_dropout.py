from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bhpeft.errors import ConfigError
from bhpeft.learning.descent import Descent
from bhpeft.learning.fit import fit
from bhpeft.learning.members import with_members
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import MAP, MC_DROPOUT
from tests import tiny
from tests.learning import problems

ALL = ("lora", "adapter", "houlsby", "prefix")


@pytest.fixture
def predictor() -> Predictor:
    model = problems.model(ALL)
    return Predictor(model, problems.later(problems.start(model, ALL, MC_DROPOUT)))


def test_its_draws_leave_out_inputs_of_every_map_and_of_the_head(predictor: Predictor) -> None:
    """Whole columns of A, D and the head are zero; what multiplies nothing is as it was."""
    weights, mean = predictor.weights(6), predictor.weights(0)
    parts = predictor.model.sites.parts
    for name, value in weights.items():
        if parts[name] not in MC_DROPOUT.dropout:
            assert torch.equal(value, mean[name])
            continue
        left = value / mean[name]
        assert value.shape == (6, *mean[name].shape)
        column = left.flatten(1, -2)[:, :1]
        torch.testing.assert_close(left.flatten(1, -2), column.expand_as(left.flatten(1, -2)))
        kept = left[left != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.9))
    assert {parts[n] for n in weights if weights[n].ndim > mean[n].ndim} == set(MC_DROPOUT.dropout)


def test_a_rows_score_does_not_depend_on_its_neighbours(predictor: Predictor) -> None:
    """The masks belong to the version, as a Gaussian's draws do."""
    texts = problems.texts(7)
    together = predictor.probabilities(texts, 5)
    alone = np.concatenate([predictor.probabilities([text], 5) for text in texts], axis=1)
    np.testing.assert_allclose(alone, together, atol=2e-6)
    assert len({tuple(draw.ravel().round(9)) for draw in together}) == 5


def test_it_is_saved_with_its_rates_and_says_the_same_when_loaded(
    predictor: Predictor, tmp_path: Path
) -> None:
    again = AdapterState.load(predictor.state.save(tmp_path))
    assert again.spec.dropout == dict(MC_DROPOUT.dropout)
    texts = problems.texts(4)
    said = Predictor(predictor.model, again).probabilities(texts)
    assert (said == predictor.probabilities(texts)).all()
    assert len(said) == again.spec.draws == 4


def test_in_training_each_row_has_a_mask_of_its_own(tmp_path: Path) -> None:
    """And without masks, or with all inputs kept, the step is MAP's."""
    lesson = problems.lesson(tmp_path, ALL, variant=MC_DROPOUT)
    descent = Descent.begin(lesson, tiny.generator())
    found = descent._left_out(8)
    assert set(found) == {n for n, p in lesson.model.sites.parts.items() if p in MC_DROPOUT.dropout}
    assert all(len(mask.unique(dim=0)) > 1 for mask in found.values())
    plain = Descent.begin(problems.lesson(tmp_path, ALL, variant=MAP), tiny.generator())
    descent.dropout = dict.fromkeys(descent.dropout, 0.0)
    for minibatch in lesson.rows.minibatches(8, tiny.generator(1)):
        descent.step(minibatch, 10)
        plain.step(minibatch, 10)
    torch.testing.assert_close(descent.point, plain.point, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama", "deberta"])
def test_it_learns_on_encoders_and_decoders_and_where_draws_do_not_fold(
    tmp_path: Path, family: str
) -> None:
    barred = {"llama": {"bitfit"}, "deberta": {"prefix"}}.get(family, set())
    names = [name for name in problems.SETTINGS if name not in barred]
    lesson = problems.lesson(tmp_path, names, family=family, variant=MC_DROPOUT, rows=16, epochs=1)
    found = fit(lesson, tiny.generator())
    assert found.travel_met is None
    assert found.state.posterior.size == 0
    assert len(Predictor(lesson.model, found.state).probabilities(["w4 w5"], 3)) == 3


def test_where_no_input_can_be_left_out_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would silently be a point estimate."""
    model = problems.model(["bitfit"])
    head = {n: s for n, s in model.sites.items() if not n.startswith("head.")}
    monkeypatch.setattr(model, "sites", type(model.sites)(head.values()))
    with pytest.raises(ConfigError, match=r"'mc_dropout' makes nothing.*adapter.down"):
        problems.start(model, ["bitfit"], MC_DROPOUT)


def test_an_ensemble_of_them_is_refused(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path, variant=MC_DROPOUT)
    with pytest.raises(ConfigError, match="cannot start apart; found inputs left out"):
        with_members(lesson.start, lesson.model, replace(MC_DROPOUT, members=2))

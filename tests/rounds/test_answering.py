from __future__ import annotations

import pytest

from bhpeft.errors import ConfigError, UnknownName
from bhpeft.learning.predict import Predictor
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.rounds.answering import Answering, settle
from bhpeft.stream import Prediction
from tests import tiny
from tests.learning import problems
from tests.learning.test_predictors import version, wide


def settled(asked: Prediction, rows: int = 20, champion=None, std=0.5, **options) -> Answering:
    candidate = wide(version(**options), std)
    return settle(
        asked,
        candidate.model,
        candidate.state,
        unlabelled=problems.texts(40, seed=1),
        unseen=problems.texts(rows),
        champion=champion,
    )


def test_auto_measures_every_predictor_and_notes_its_choice_in_the_state():
    """What was chosen, its numbers, and those of what was not."""
    found = settled(Prediction(predictor="auto", draws=8, fidelity_rows=15, fidelity_draws=40))
    assert found.fidelity is not None
    chosen = found.state.spec.predictor
    assert found.fidelity["predictor"] == chosen
    assert {chosen, *found.fidelity["others"]} == {"last_layer", "calibrated", "linear", "full"}
    assert (found.fidelity["rows"], found.fidelity["draws"]) == (15, 40)
    assert found.state.spec.scalars["variance"] > 0


def test_a_named_predictor_is_measured_too_but_not_chosen():
    found = settled(Prediction(predictor="mean", fidelity_draws=40))
    assert found.state.spec.predictor == "mean"
    assert found.fidelity["others"] == {}
    assert found.fidelity["rank_correlation"] == 0.0


@pytest.mark.parametrize("rows", [0, 1])
def test_without_rows_to_measure_on_all_weights_are_drawn(rows: int):
    found = settled(Prediction(predictor="auto"), rows=rows)
    assert (found.state.spec.predictor, found.fidelity) == ("full", None)
    found = settled(Prediction(predictor="last_layer", fidelity_rows=rows))
    assert (found.state.spec.predictor, found.fidelity) == ("last_layer", None)


def test_the_champions_predictor_stays_while_it_is_faithful_and_then_nothing_else_is_measured():
    champion = version(predictor="linear").state
    asked = Prediction(predictor="auto", fidelity_draws=100)
    found = settled(asked, champion=champion, std=0.03)
    assert found.fidelity is not None
    assert (found.state.spec.predictor, found.fidelity["others"]) == ("linear", {})


def test_all_draws_give_way_to_what_is_as_faithful_and_cheaper():
    asked = Prediction(predictor="auto", fidelity_draws=100)
    found = settled(asked, champion=version(predictor="full").state, std=0.03, draws=64)
    assert found.fidelity is not None
    assert found.state.spec.predictor in ("last_layer", "calibrated", "linear")
    assert "full" in found.fidelity["others"]


def test_all_draws_by_name_are_not_measured_against_themselves():
    found = settled(Prediction(predictor="full"))
    assert (found.state.spec.predictor, found.fidelity) == ("full", {"predictor": "full"})


def test_a_predictor_nobody_knows_is_refused_before_anything_is_measured():
    with pytest.raises(UnknownName, match="no predictor called 'lastlayer'"):
        settled(Prediction(predictor="lastlayer"), rows=0)


def test_a_predictor_that_does_not_fit_is_refused_by_name():
    """One whose last layer has nothing to draw."""
    made = [method("lora", {"rank": 2, "layers": (0,)})]
    model = AdaptedModel(tiny.base(), made, 2, generator=tiny.generator(3))
    candidate = Predictor(model, problems.start(model))
    with pytest.raises(ConfigError, match="nothing to draw"):
        settle(
            Prediction(predictor="last_layer"),
            model,
            candidate.state,
            unlabelled=[],
            unseen=problems.texts(5),
            champion=None,
        )

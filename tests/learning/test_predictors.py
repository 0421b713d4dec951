from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bhpeft.errors import ConfigError, UnknownName
from bhpeft.learning.fidelity import (
    Fidelity,
    chosen,
    gold,
    kept,
    measured,
    offered,
    prepared,
)
from bhpeft.learning.predict import Predictor
from bhpeft.learning.predictors import (
    LAST_DRAWS,
    PREDICTORS,
    RANKING_DRAWS,
    Recipe,
    weights_of,
)
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import BH_PEFT
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import MeanField
from bhpeft.posterior.distilled import Scalars, calibrated
from tests import tiny
from tests.learning import problems

ALL = ("lora", "adapter", "prefix")


def version(methods=ALL, pooling="last", **spec) -> Predictor:
    made = [method(name, problems.SETTINGS[name]) for name in methods]
    model = AdaptedModel(tiny.base(), made, 2, pooling, generator=tiny.generator(3))
    state = problems.later(problems.start(model, methods))
    return Predictor(model, state.with_spec(**spec))


def wide(predictor: Predictor, std: float = 0.5) -> Predictor:
    """Return the version with a posterior wide enough to matter."""
    q = predictor.state.posterior
    posterior = MeanField.from_std(q.mean, torch.full_like(q.mean, std), q.shapes, q.scale)
    return replace(predictor, state=replace(predictor.state, posterior=posterior))


def test_a_state_from_before_there_was_a_choice_takes_all_its_draws(tmp_path):
    predictor = version()
    folder = predictor.state.save(tmp_path)
    fields = json.loads((folder / "spec.json").read_text())
    del fields["predictor"], fields["scalars"]
    (folder / "spec.json").write_text(json.dumps(fields))
    spec = AdapterState.load(folder).spec
    assert (spec.predictor, spec.scalars) == ("full", {})


def test_the_choice_and_its_scalars_travel_with_the_state(tmp_path):
    spec = version(predictor="calibrated", scalars={"shrink": 0.5, "variance": 2.0}).state.spec
    assert Spec.from_json(spec.as_json()) == spec


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_last_layer_is_draws_of_the_last_layer_over_the_mean_of_the_rest(pooling):
    """Each draw is one pass with those weights in place; below it the mean weights."""
    predictor = wide(version(pooling=pooling, predictor="last_layer"))
    texts = problems.texts(5)
    found = predictor.probabilities(texts)
    assert found.shape == (LAST_DRAWS, 5, 2)
    recipe, mean = predictor.recipe(), weights_of(predictor.model, predictor.state, 0)
    drawn = {name for name, weight in recipe.weights.items() if weight.ndim > mean[name].ndim}
    assert drawn == {n for n in predictor.state.posterior.shapes if n.startswith(("1.", "head."))}
    for s in (0, 7):
        one = {n: w[s] if n in drawn else w for n, w in recipe.weights.items()}
        with torch.no_grad(), predictor.model.swapped(one):
            logits = predictor.model.logits(predictor.encode(texts))
        np.testing.assert_allclose(found[s], logits.double().softmax(-1).numpy(), atol=2e-6)
    assert found.std(0).max() > 0.01


def test_calibrated_is_the_mended_mean_with_the_last_layers_disagreement():
    """Its draws average to the scalars' prediction, and rank rows as the last layer's draws do."""
    predictor = wide(version(predictor="calibrated", scalars={"shrink": 0.6, "variance": 0.8}))
    texts = problems.texts(30)
    found = predictor.probabilities(texts)
    assert found.shape == (RANKING_DRAWS, 30, 2)
    logits = predictor.logits(texts, predictor.recipe(0))[0]
    expected = calibrated(logits, Scalars(0.6, 0.8)).numpy()
    np.testing.assert_allclose(found.mean(0), expected, atol=1e-5)
    assert found.std(0).min() > 1e-4


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_row_does_not_depend_on_its_neighbours_nor_on_when_it_is_asked(name):
    predictor = wide(version(predictor=name))
    texts = problems.texts(70)
    together = predictor.probabilities(texts)
    np.testing.assert_allclose(together.sum(-1), 1.0)
    alone = np.concatenate([predictor.probabilities([text]) for text in texts[:5]], axis=1)
    np.testing.assert_allclose(alone, together[:, :5], atol=5e-6)
    assert (predictor.probabilities(texts) == together).all()
    assert predictor.probabilities([]).shape == (len(together), 0, 2)


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_point_estimate_predicts_with_its_weights_whatever_is_asked(name):
    model = problems.model(ALL)
    state = problems.start(model, ALL, BH_PEFT.point()).with_spec(predictor=name)
    assert Predictor(model, state).probabilities(problems.texts(3)).shape == (1, 3, 2)


def test_asking_for_draws_is_asking_for_all_weights():
    predictor = version(predictor="last_layer")
    assert predictor.probabilities(problems.texts(2), draws=6).shape == (6, 2, 2)
    assert predictor.probabilities(problems.texts(2), draws=0).shape == (1, 2, 2)


def test_a_last_layer_without_gaussian_weights_is_refused_by_name():
    made = [method("lora", {"rank": 2, "layers": (0,)})]
    model = AdaptedModel(tiny.base(), made, 2, generator=tiny.generator(3))
    predictor = Predictor(model, problems.start(model).with_spec(predictor="last_layer"))
    with pytest.raises(ConfigError, match="nothing to draw in the last layer"):
        predictor.probabilities(problems.texts(1))
    assert offered(predictor) == ["linear", "full"]


def test_an_unknown_predictor_is_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="calibrated, full, last_layer, linear, mean"):
        version(predictor="best").probabilities(problems.texts(1))


def doubled(model, state, draws):
    """A predictor of somebody's own: the mean weights, twice as sure."""
    return Recipe(weights_of(model, state, 0), 1, model.folded_rows, lambda logits: 2 * logits)


def test_a_predictor_of_ones_own_is_named_by_module():
    mine = version(predictor=f"{__name__}:doubled")
    texts = problems.texts(4)
    mean = mine.logits(texts, mine.recipe(0))
    found = mine.probabilities(texts)
    np.testing.assert_allclose(found, (2 * mean.double()).softmax(-1).numpy())


def test_scalars_are_distilled_from_texts_alone():
    """A narrow posterior has nothing to mend; a wide one has."""
    narrow, broad = wide(version(), 1e-6), wide(version())
    texts = problems.texts(40)
    found = Scalars.of(prepared(narrow, texts).state.spec.scalars)
    assert found.shrink == pytest.approx(1.0, abs=1e-3)
    assert found.variance < 1e-6
    mended = Scalars.of(prepared(broad, texts).state.spec.scalars)
    assert mended.variance > 0.01
    assert prepared(broad, []).state.spec.scalars == {}


def test_more_draws_are_more_faithful_and_the_gold_is_not_the_versions_own():
    """All weights' sixty-four draws beat ten by the laws of averages; two do worse."""
    predictor, texts = wide(version(draws=64)), problems.texts(40)
    many = measured(predictor, ["full"], texts, 100)["full"]
    few = measured(wide(version(draws=2)), ["full"], texts, 100)["full"]
    assert many.kl_ratio < 0.7 < few.kl_ratio
    assert few.rank_correlation < many.rank_correlation
    assert many.rank_gap > 0
    reference = gold(predictor, texts, 95)
    assert reference.probs.shape == (100, 40, 2)
    own = predictor.probabilities(texts)
    assert not any(np.allclose(own[0], one) for one in reference.probs.numpy())


def test_each_predictors_fidelity_is_measured_and_the_mean_ranks_nothing():
    predictor = prepared(wide(version()), problems.texts(60, seed=1))
    found = measured(predictor, list(PREDICTORS), problems.texts(30), 40)
    assert set(found) == set(PREDICTORS)
    assert found["mean"].rank_correlation == 0.0
    assert found["calibrated"].kl < found["mean"].kl
    assert all(one.cost > 0 for one in found.values())
    assert found["calibrated"].rank_correlation > found["mean"].rank_correlation


def fidelity(kl_ratio=0.5, gap=0.0, cost=1.0):
    return Fidelity(kl=0.1, kl_ratio=kl_ratio, rank_correlation=0.9, rank_gap=gap, cost=cost)


def test_auto_takes_the_cheapest_that_is_as_faithful_as_ten_draws():
    """A champion's predictor stays while it is; with none faithful, all draws."""
    found = {
        "last_layer": fidelity(kl_ratio=1.2, cost=1.0),
        "calibrated": fidelity(cost=1.1),
        "linear": fidelity(cost=2.5),
        "full": fidelity(cost=8.0),
    }
    assert chosen(found) == "calibrated"
    assert chosen(found, keep="linear") == "linear"
    assert chosen(found, keep="last_layer") == "calibrated"
    assert chosen(found | {"calibrated": fidelity(gap=-0.2)}) == "linear"
    assert chosen({"last_layer": fidelity(gap=-0.2), "full": fidelity()}) == "full"
    assert chosen({"full": fidelity(kl_ratio=2.0)}) == "full"
    assert replace(fidelity(kl_ratio=9.0), kl=1e-4).enough


def test_all_draws_give_way_and_what_approximates_stays():
    names = ["last_layer", "calibrated", "full"]
    assert kept(None, names) is None
    assert kept(version(predictor="calibrated").state, names) == "calibrated"
    assert kept(version(predictor="full").state, names) is None
    assert kept(version(predictor="linear").state, names) is None


def test_only_classes_are_calibrated_and_no_draws_are_no_choice():
    assert offered(version()) == ["last_layer", "calibrated", "linear", "full"]
    assert offered(version(draws=0)) == []


@pytest.mark.parametrize(("rows", "draws"), [(1, 100), (5, 10)])
def test_too_little_to_measure_with_is_refused(rows, draws):
    with pytest.raises(ConfigError, match="too little to measure"):
        measured(version(), ["full"], problems.texts(rows), draws)

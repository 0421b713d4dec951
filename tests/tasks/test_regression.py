"""Regression on tiny models and through whole rounds of real MiniLM."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bhpeft.learning.build import first_state
from bhpeft.learning.fit import Lesson, fit
from bhpeft.learning.plan import Plan
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import TokenTable, collate
from bhpeft.tasks import task
from bhpeft.tasks.regression import Regression
from tests import tiny
from tests.learning import problems


def test_the_loss_is_the_negative_log_density_in_the_answers_units() -> None:
    predicted = Regression().knowing((10.0, 4.0))
    logits = torch.tensor([[0.5, -0.4], [-1.0, -0.4]])
    answers = torch.tensor([11.0, 9.0], dtype=torch.float64)
    drawn = predicted.draws(logits[None])
    expected = predicted.scored(drawn, answers.numpy()).nll_rows.mean()
    assert float(predicted.loss(logits, {"labels": answers})) == pytest.approx(expected, rel=1e-6)


def test_a_fit_learns_mean_and_noise(tmp_path: Path) -> None:
    """Answers in the hundreds with noise of 25 on a spread of 56: σ ends near the noise."""
    rows, source = 400, np.random.default_rng(0)
    texts, fresh = problems.texts(rows), problems.texts(200, seed=9)
    signal, fresh_signal = _readable(texts, fresh)
    answers = 300 + 50 * (signal + 0.5 * source.normal(size=rows))
    predicted = task("regression")
    spec = problems.spec(task="regression", labels=(), tally=tuple(predicted.tally([answers], ())))
    model = AdaptedModel(
        tiny.base("bert"),
        [problems.method("lora", problems.SETTINGS["lora"])],
        2,
        generator=tiny.generator(3),
        head=spec.predicted.head(spec.labels),
    )
    start = first_state(model, spec, BH_PEFT, texts[:6], tiny.generator())
    chunk = (texts, answers.tolist(), list(range(rows)))
    table = TokenTable.build([chunk], tiny.tokenizer(), 16, tmp_path, "numbers", numbers=True)
    learned = fit(
        Lesson(
            model, start, start.prior, table,
            Plan(epochs=12, batch_size=16, learning_rate=1e-2, rho_learning_rate=0.3),
            BH_PEFT, first=True, predicted=spec.predicted,
        ),
        tiny.generator(1),
    )  # fmt: skip
    folder = learned.state.save(tmp_path / "state")
    again = AdapterState.load(folder)
    assert again.spec == learned.state.spec
    predictor = Predictor(model, again)
    frame = predictor.predict(fresh)
    assert np.sqrt(((frame["value"] - 300 - 50 * fresh_signal) ** 2).mean()) < 25
    assert 20 < frame["std"].mean() < 40
    assert (frame["low"] < frame["value"]).all()
    assert (frame["value"] < frame["high"]).all()
    assert list(frame.columns) == list(spec.predicted.answers)


def _readable(*tables: list[str]) -> list[np.ndarray]:
    """Return a number of spread 1 for each text that a linear head can read off the base."""
    plain = AdaptedModel(tiny.base("bert"), [], 2, generator=tiny.generator())
    seen = [plain.embed(collate(tiny.tokenizer(), texts, 16)).numpy() for texts in tables]
    direction = np.linalg.svd(seen[0] - seen[0].mean(0), full_matrices=False)[2][0]
    read = [(vectors - seen[0].mean(0)) @ direction for vectors in seen]
    return [one / read[0].std() for one in read]


def test_answers_that_are_all_equal_have_no_units() -> None:
    predicted = task("regression")
    known = predicted.knowing(tuple(predicted.tally([np.full(5, 3.0)], ())))
    drawn = known.draws(torch.zeros(1, 2, 2))
    assert np.isfinite(known.scored(drawn, np.full(2, 3.0)).nll_rows).all()


def test_an_empty_table_of_texts_has_the_columns_of_a_full_one() -> None:
    predicted = replace(Regression(), mean=1.0)
    frame = predicted.predict(np.ones((2, 0, 2)), (), 1.0)
    assert list(frame.columns) == list(predicted.answers)
    assert len(frame) == 0

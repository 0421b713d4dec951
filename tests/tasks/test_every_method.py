"""Every method, as a point and with a posterior, on an encoder and a decoder, for every task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bhpeft.learning.build import first_state
from bhpeft.learning.fit import fit
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT
from bhpeft.methods import METHODS, method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import TokenTable
from bhpeft.tasks import task
from tests import tiny
from tests.learning import problems

ANSWERS = {
    "classification": ("no", "yes"),
    "regression": (),
    "choice": ("w5", "w9"),
    "causal_lm": (),
}
CASES = [
    (name, family, kind)
    for name in METHODS
    for kind, families in {
        "classification": ("bert", "llama"),
        "regression": ("bert", "llama"),
        "choice": ("llama",),
        "causal_lm": ("llama",),
    }.items()
    for family in families
    # Llama has no biases.
    if (name, family) != ("bitfit", "llama")
]


@pytest.mark.parametrize("gaussian", [True, False], ids=["gaussian", "point"])
@pytest.mark.parametrize(("name", "family", "kind"), CASES)
def test_it_trains_saves_loads_and_predicts(
    name: str, family: str, kind: str, gaussian: bool, tmp_path: Path
) -> None:
    """Three steps move every weight that has a gradient; what is loaded says the same."""
    variant = BH_PEFT if gaussian else BH_PEFT.point()
    settings = problems.SETTINGS.get(name, {})
    texts = problems.texts(12)
    chosen = task(kind)
    numbers = not chosen.needs.listed
    answers = np.array(problems.labels(texts), dtype=float if numbers else int)
    spec = replace(
        problems.spec((), variant),
        task=kind, labels=ANSWERS[kind], methods={name: settings},
        tally=tuple(chosen.tally([answers], ANSWERS[kind])) if numbers else (),
    )  # fmt: skip
    model = _model(family, spec)
    start = first_state(model, spec, variant, texts[:4], tiny.generator())
    chunk = (texts, answers.tolist(), list(range(12)))
    table = TokenTable.build([chunk], tiny.tokenizer(), 16, tmp_path, kind, numbers=numbers)
    plan = Plan(epochs=1, max_epochs=60, batch_size=4, learning_rate=1e-2, rho_learning_rate=2.0)
    lesson = Lesson(
        model, start, start.prior, table, plan, variant, first=True, predicted=spec.predicted
    )
    learned = fit(lesson, tiny.generator(1)).state
    assert bool(learned.posterior.size) == gaussian
    moved = [not (learned.point[n] == start.point[n]).all() for n in start.point]
    moved.append(bool((learned.posterior.mean != start.posterior.mean).any()))
    assert any(moved)
    again = AdapterState.load(learned.save(tmp_path / "state"))
    assert again.spec == learned.spec
    frames = [Predictor(_model(family, spec), state).predict(texts) for state in (learned, again)]
    assert frames[0].equals(frames[1])
    assert list(frames[0].columns) == list(chosen.answers)
    assert len(frames[0]) == 12


def _model(family: str, spec: problems.Spec) -> AdaptedModel:
    base = tiny.base(family)
    base.model.config.tie_word_embeddings = True
    made = [method(name, settings) for name, settings in spec.methods.items()]
    predicted = spec.predicted
    return AdaptedModel(
        base, made, predicted.outputs(spec.labels), generator=tiny.generator(spec.seed),
        head=predicted.head(spec.labels),
    )  # fmt: skip

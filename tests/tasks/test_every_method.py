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
from bhpeft.learning.variants import BH_PEFT, IVON, MC_DROPOUT, Variant
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
    learned = _learned(name, family, kind, variant, tmp_path)
    assert bool(learned.posterior.size) == gaussian


@pytest.mark.parametrize("variant", [IVON, MC_DROPOUT], ids=lambda variant: variant.name)
@pytest.mark.parametrize(("name", "family"), [case[:2] for case in CASES if "class" in case[2]])
def test_so_it_does_under_another_optimiser_and_with_masks_for_draws(
    name: str, family: str, variant: Variant, tmp_path: Path
) -> None:
    """Each method alone: in a union another one's weights would hide that one's do not move.

    Whatever the draws are made of, they disagree: a method without inputs to leave out has the
    head's.
    """
    learned = _learned(name, family, "classification", variant, tmp_path)
    assert bool(learned.posterior.size) == (variant is IVON)
    model = _model(family, learned.spec)
    said = Predictor(model, learned).probabilities(problems.texts(6), 4)
    assert said.shape[0] == 4
    assert float(said.std(axis=0).max()) > 1e-6


def _learned(name: str, family: str, kind: str, variant: Variant, folder: Path) -> AdapterState:
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
    table = TokenTable.build([chunk], tiny.tokenizer(), 16, folder, kind, numbers=numbers)
    rate = 0.5 if variant is IVON else 2.0
    plan = Plan(epochs=1, max_epochs=60, batch_size=4, learning_rate=1e-2, rho_learning_rate=rate)
    lesson = Lesson(
        model, start, start.prior, table, plan, variant, first=True, predicted=spec.predicted
    )
    learned = fit(lesson, tiny.generator(1)).state
    moved = [not (learned.point[n] == start.point[n]).all() for n in start.point]
    moved.append(bool((learned.posterior.mean != start.posterior.mean).any()))
    assert any(moved)
    again = AdapterState.load(learned.save(folder / "state"))
    assert again.spec == learned.spec
    frames = [Predictor(_model(family, spec), state).predict(texts) for state in (learned, again)]
    assert frames[0].equals(frames[1])
    assert list(frames[0].columns) == list(chosen.answers)
    assert len(frames[0]) == 12
    return learned


def _model(family: str, spec: problems.Spec) -> AdaptedModel:
    base = tiny.base(family)
    base.model.config.tie_word_embeddings = True
    made = [method(name, settings) for name, settings in spec.methods.items()]
    predicted = spec.predicted
    return AdaptedModel(
        base, made, predicted.outputs(spec.labels), generator=tiny.generator(spec.seed),
        head=predicted.head(spec.labels),
    )  # fmt: skip

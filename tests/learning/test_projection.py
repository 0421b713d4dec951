from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.complete import complete
from bhpeft.learning.finishes import Selection
from bhpeft.learning.fit import Lesson, fit
from bhpeft.learning.handover import hand_over, taken_over
from bhpeft.learning.plan import Plan
from bhpeft.learning.predict import Predictor
from bhpeft.learning.projection import (
    FIRST,
    FIRST_BIAS,
    SECOND,
    SECOND_BIAS,
    TABLE,
    Projection,
    ejected,
    entered,
    projection_of,
)
from bhpeft.learning.ranks import ALONE
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT, BH_PEFT_PAPER, MC_DROPOUT, POINT, Variant
from bhpeft.models.encode import collate
from bhpeft.posterior import unflatten
from tests import tiny
from tests.learning import problems

NOTHING = Selection((), np.empty(0, dtype=np.int64))
METHODS = ("adapter", "prefix")


def problem(
    folder: Path, variant: Variant = BH_PEFT, family: str = "bert", **changes: int
) -> Lesson:
    """Return a first round of adapters and a prefix that is learned through a network of 5."""
    plan = {"epochs": 2, "kl_warmup": 0.0}
    lesson = problems.lesson(folder, METHODS, family=family, variant=variant, **plan, **changes)
    methods = {**lesson.start.spec.methods, "prefix": {"length": 2, "projection": 5}}
    return replace(lesson, start=lesson.start.with_spec(methods=methods))


def network_of(lesson: Lesson) -> Projection:
    found = projection_of(lesson)
    assert found is not None
    return found


def test_it_is_an_embedding_two_linear_maps_and_a_tanh() -> None:
    """PEFT's prefix encoder with the same weights says the same, for one draw and for three."""
    network = Projection(("0.k", "0.v", "1.k", "1.v"), length=3, width=4, inner=5, outer=6)
    weights = network.start(tiny.generator())
    modules = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 16))
    weights[FIRST_BIAS] = torch.randn(5, generator=tiny.generator(1))
    weights[SECOND_BIAS] = torch.randn(16, generator=tiny.generator(2))
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    modules.load_state_dict(
        dict(
            zip(names, (weights[n] for n in (FIRST, FIRST_BIAS, SECOND, SECOND_BIAS)), strict=True)
        )
    )
    expected = modules(weights[TABLE]).split(4, dim=-1)
    made = network.realised(weights | {"other": torch.ones(2)})
    assert list(made) == ["other", "0.k", "0.v", "1.k", "1.v"]
    for name, value in zip(network.flat, expected, strict=True):
        torch.testing.assert_close(made[name], value)
    drawn = torch.stack([weights[FIRST] * factor for factor in (1.0, 2.0, 3.0)])
    several = network.realised(weights | {FIRST: drawn})["1.v"]
    assert several.shape == (3, 3, 4)
    torch.testing.assert_close(several[0], expected[3])
    torch.testing.assert_close(several[2], network.realised(weights | {FIRST: drawn[2]})["1.v"])


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize(
    "variant", [BH_PEFT, BH_PEFT_PAPER, POINT, MC_DROPOUT], ids=lambda v: v.name
)
def test_a_first_round_leaves_flat_keys_and_values_and_no_network(
    tmp_path: Path, variant: Variant, family: str
) -> None:
    """They are the model's own weights, Gaussian where the variant makes keys and values so."""
    lesson = problem(tmp_path, variant, family)
    found = complete(lesson, tiny.generator(), NOTHING)
    state = found.state
    assert not [name for name in (*state.point, *state.posterior.shapes) if name[0] == "p"]
    state.check_layout(lesson.model.shapes)
    flat = set(network_of(lesson).flat)
    gaussian = bool(variant.gaussian)
    assert flat <= (state.posterior.shapes if gaussian else state.point).keys()
    if not gaussian:
        assert all(float(state.precision[name].min()) >= 0 for name in flat)
        assert any(float(state.precision[name].max()) > 0 for name in flat)
    again = AdapterState.load(state.save(tmp_path / "state"))
    texts = problems.texts(3)
    said = Predictor(lesson.model, again).probabilities(texts, 4)
    assert (said == Predictor(lesson.model, state).probabilities(texts, 4)).all()
    later = replace(lesson, start=again, prior=again.posterior, first=False)
    assert projection_of(later) is None
    assert complete(later, tiny.generator(1), NOTHING).state.point.keys() == state.point.keys()


def test_leaving_the_network_behind_changes_nothing_of_what_the_mean_says(tmp_path: Path) -> None:
    lesson = problem(tmp_path)
    network = network_of(lesson)
    inside = entered(lesson, network, tiny.generator())
    assert FIRST in inside.start.posterior.shapes
    learned = fit(inside, tiny.generator(1)).state
    state = ejected(lesson, inside, network, learned, tiny.generator(2))
    texts = problems.texts(5)
    minibatch = collate(tiny.tokenizer(), texts, 16)
    mean = unflatten(learned.posterior.mean, learned.posterior.shapes)
    with torch.no_grad(), lesson.model.swapped(network.realised(mean | dict(learned.point))):
        expected = lesson.model.logits(minibatch).double().softmax(-1).numpy()
    said = Predictor(lesson.model, state).probabilities(texts, 0)[0]
    np.testing.assert_allclose(said, expected, atol=2e-6)


def test_the_keys_and_values_get_the_curvature_of_their_own_gradients(tmp_path: Path) -> None:
    """Of one row the Fisher information is its squared gradient: σ = (1/s̃² + g²/λ)^(−½)."""
    cold = replace(BH_PEFT, kl_weight=1e-7, start_std=(1e-6, 1e-6))
    lesson = problem(tmp_path, cold, rows=1)
    network = network_of(lesson)
    inside = entered(lesson, network, tiny.generator())
    state = ejected(lesson, inside, network, inside.start, tiny.generator())
    mean = unflatten(state.posterior.mean, state.posterior.shapes)
    weights = {n: w.clone().requires_grad_() for n, w in (mean | dict(state.point)).items()}
    (minibatch,) = lesson.rows.minibatches(8, tiny.generator())
    with lesson.model.swapped(weights):
        lesson.predicted.loss(lesson.model.logits(minibatch), minibatch).backward()
    std = unflatten(state.posterior.std, state.posterior.shapes)
    width = unflatten(state.prior.std, state.prior.shapes)
    narrowed = []
    for name in network.flat:
        gradient = weights[name].grad
        assert gradient is not None
        expected = (width[name] ** -2 + gradient.square() / 1e-7).rsqrt()
        torch.testing.assert_close(std[name], expected, rtol=1e-3, atol=0)
        narrowed.append(float((expected / width[name]).min()))
    assert min(narrowed) < 0.9


def test_other_processes_learn_through_the_same_network(tmp_path: Path) -> None:
    """Its weights are in the state they are handed, its shape in the spec."""
    tiny.bert().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    methods = {"prefix": {"length": 2, "projection": 5}}
    spec = replace(problems.spec((), BH_PEFT), base=str(tmp_path / "base"), methods=methods)
    model = build_model(spec)
    start = first_state(model, spec, BH_PEFT, problems.texts(4), tiny.generator())
    rows = problems.table(tmp_path)
    lesson = Lesson(model, start, start.prior, rows, Plan(), BH_PEFT, first=True)
    inside = entered(lesson, network_of(lesson), tiny.generator())
    for handed, expected in ((inside, inside.projection), (lesson, None)):
        desk = tmp_path / str(expected is None)
        desk.mkdir()
        hand_over(handed, tiny.generator(), desk, shard=False, kept=None)
        found, _, _ = taken_over(desk, ALONE)
        assert found.projection == expected
        assert found.start.posterior.shapes == handed.start.posterior.shapes


def test_the_papers_loss_is_a_mean_kl_and_its_lambda_follows_from_rows_and_weights(
    tmp_path: Path,
) -> None:
    """0.001 · mean_j KL_j = (λ/N) Σ_j KL_j at λ = 0.001·N/P: on the curve, and logged."""
    lesson = problem(tmp_path, BH_PEFT_PAPER, rows=24)
    inside = entered(lesson, network_of(lesson), tiny.generator())
    weights = inside.start.posterior.size
    # Two adapters' down-projections and the network's first matrix.
    assert weights == 2 * 3 * 32 + 5 * 32
    found = complete(lesson, tiny.generator(), NOTHING)
    assert found.kl_weight == pytest.approx(1e-3 * 24 / weights)
    last = found.curve[-1]
    assert last["loss"] - last["nll"] == pytest.approx(1e-3 * last["kl"] / weights, rel=1e-6)
    later = replace(lesson, start=found.state, prior=found.state.posterior, first=False)
    again = complete(later, tiny.generator(), NOTHING)
    assert again.kl_weight == pytest.approx(1e-3 * 24 / found.state.posterior.size)


def test_the_papers_preset_is_what_the_paper_says() -> None:
    assert BH_PEFT_PAPER.methods == ("adapter", "prefix")
    assert BH_PEFT_PAPER.settings["adapter"] == {"bottleneck": 8, "scale": 4.0}
    assert BH_PEFT_PAPER.settings["prefix"]["length"] == 30
    parts = ("adapter.down", "prefix.first", "prefix.key")
    assert {BH_PEFT_PAPER.prior_std(part, 384, 5.0) for part in parts} == {0.1}
    assert not BH_PEFT_PAPER.gaussian & {"adapter.up", "head.weight", "head.bias", "prefix.second"}

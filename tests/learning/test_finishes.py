from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from bhpeft.errors import ConfigError
from bhpeft.learning import complete as complete_module
from bhpeft.learning.complete import complete
from bhpeft.learning.finishes import Selection, best_temperature, head_curvature
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.members import joined, member, with_members
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT, ENSEMBLE, VARIANTS, Variant
from bhpeft.posterior import unflatten
from bhpeft.posterior.elbo import optimal_std
from tests import tiny
from tests.learning import problems

BASELINES = ("point", "map", "mc_dropout", "ensemble", "temperature", "laplace", "tfb", "ivon")
TEXTS = problems.texts(30, seed=9)
SELECTION = Selection(TEXTS, np.array(problems.labels(TEXTS), dtype=np.int64))


@pytest.fixture(autouse=True)
def tiny_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are built from the spec's base, which is a tiny one in memory here."""
    monkeypatch.setattr(
        "bhpeft.learning.members.build_model", lambda spec: problems.model(seed=spec.seed)
    )


def problem(folder: Path, name: str, family: str = "bert", **plan: object) -> Lesson:
    variant: Variant = VARIANTS[name]
    lesson = problems.lesson(folder, family=family, variant=variant, **plan)
    return replace(lesson, start=with_members(lesson.start, lesson.model, variant))


@pytest.mark.parametrize(("name", "family"), [*itertools.product(BASELINES, ["bert", "llama"])])
def test_every_baseline_trains_saves_loads_and_predicts(
    tmp_path: Path, name: str, family: str
) -> None:
    if (name, family) == ("ensemble", "llama"):
        pytest.skip("the fixture's members are BERT's")
    lesson = problem(tmp_path, name, family, epochs=2)
    found = complete(lesson, tiny.generator(), SELECTION)
    again = AdapterState.load(found.state.save(tmp_path / "state"))
    assert again.spec == found.state.spec
    predictor = Predictor(lesson.model, again)
    frame = predictor.predict(TEXTS[:4], draws=4)
    assert frame["probability"].between(0.5, 1).all()
    expected = {"ensemble": 3, "laplace": 4, "mc_dropout": 4, "tfb": 4, "ivon": 4}.get(name, 1)
    assert len(predictor.probabilities(TEXTS[:2], draws=4)) == expected
    # A later round starts from it.
    later = replace(
        lesson, start=replace(again, posterior=again.posterior), prior=again.posterior, first=False
    )
    more = complete(later, tiny.generator(1), SELECTION).state
    assert more.point.keys() == again.point.keys()
    assert more.spec.members == again.spec.members


def test_the_best_temperature_undoes_an_overconfident_scale() -> None:
    """Labels drawn from softmax(z), probabilities given as softmax(3 z): T is 3."""
    source = tiny.generator(2)
    logits = 2 * torch.randn(20_000, 3, generator=source, dtype=torch.float64)
    targets = torch.multinomial(logits.softmax(-1), 1, generator=source).squeeze(1)
    found = best_temperature((3 * logits).log_softmax(-1)[None], targets)
    assert found == pytest.approx(3.0, rel=0.03)


def test_a_label_that_a_row_may_not_choose_stays_impossible_at_any_temperature(
    tmp_path: Path,
) -> None:
    """Half the rows choose among two of three labels; T is what their own two say, 3."""
    source = tiny.generator(2)
    logits = 2 * torch.randn(20_000, 3, generator=source, dtype=torch.float64)
    logits[::2, 2] = -torch.inf
    targets = torch.multinomial(logits.softmax(-1), 1, generator=source).squeeze(1)
    found = best_temperature((3 * logits).log_softmax(-1)[None], targets)
    assert found == pytest.approx(3.0, rel=0.03)
    lesson = problem(tmp_path, "temperature", epochs=1)
    options = np.ones(len(TEXTS), dtype=np.int64)
    said = replace(SELECTION, options=options).said(Predictor(lesson.model, lesson.start))
    assert (said == np.array([1.0, 0.0])).all()


def test_a_temperature_never_makes_the_selection_rows_worse_nor_changes_a_label(
    tmp_path: Path,
) -> None:
    lesson = problem(tmp_path, "temperature", epochs=20, learning_rate=5e-2)
    state = complete(lesson, tiny.generator(), SELECTION).state
    plain = state.with_spec(temperature=1.0)
    assert state.spec.temperature != 1.0
    assert SELECTION.nll(lesson.model, state) <= SELECTION.nll(lesson.model, plain)
    labels = [Predictor(lesson.model, one).predict(TEXTS)["label"] for one in (state, plain)]
    assert labels[0].equals(labels[1])


def test_a_temperature_without_selection_rows_is_a_clear_error(tmp_path: Path) -> None:
    empty = Selection((), np.empty(0, dtype=np.int64))
    with pytest.raises(ConfigError, match=r"0 selection rows.*data.selection"):
        complete(problem(tmp_path, "temperature", epochs=1), tiny.generator(), empty)


def test_the_heads_curvature_is_the_diagonal_of_the_exact_hessian() -> None:
    """Autograd's Hessian of the mean cross-entropy of W x + b, entry by entry."""
    source = tiny.generator(3)
    x = torch.randn(7, 4, generator=source, dtype=torch.float64)
    theta = torch.randn(3 * 4 + 3, generator=source, dtype=torch.float64)
    labels = torch.randint(3, (7,), generator=source)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return cross_entropy(x @ flat[:12].view(3, 4).t() + flat[12:], labels)

    exact = torch.autograd.functional.hessian(loss, theta).diagonal()
    probs = (x @ theta[:12].view(3, 4).t() + theta[12:]).softmax(-1)
    weight, bias = head_curvature(x, probs)
    torch.testing.assert_close(torch.cat([weight.reshape(-1), bias]), exact)


def test_laplaces_sigma_is_the_optimum_of_the_elbo_at_the_mode(tmp_path: Path) -> None:
    """σ = (1/s̃² + N·h/λ)^(−½) with h of the batch's own rows under the fitted weights."""
    lesson = problem(tmp_path, "laplace", epochs=3)
    state = complete(lesson, tiny.generator(), SELECTION).state
    texts = problems.texts(len(lesson.rows))
    pooled: list[torch.Tensor] = []
    hook = lesson.model.head.register_forward_pre_hook(lambda _, args: pooled.append(args[0]))
    Predictor(lesson.model, state).probabilities(texts, 0)
    hook.remove()
    rows, head = torch.cat(pooled), unflatten(state.posterior.mean, state.posterior.shapes)
    probs = (rows @ head["head.weight"].t() + head["head.bias"]).softmax(-1)
    weight, _ = head_curvature(rows.double(), probs.double())
    std = state.posterior.std
    names = list(state.posterior.shapes)
    assert names == ["head.bias", "head.weight"]
    found = std[2:].view(2, 32)
    for row, column in ((0, 0), (1, 5), (0, 31)):
        expected = optimal_std(1.0, 24, float(weight[row, column]), lesson.variant.kl_weight)
        assert float(found[row, column]) == pytest.approx(expected, rel=1e-3)


def test_laplace_agrees_with_laplace_torch(tmp_path: Path) -> None:
    """The last layer's diagonal posterior precision, on one and the same linear model."""
    laplace = pytest.importorskip("laplace")
    source = tiny.generator(4)
    x, labels = torch.randn(40, 5, generator=source), torch.randint(3, (40,), generator=source)
    head = torch.nn.Linear(5, 3)
    peer = laplace.DiagLaplace(head, "classification", prior_precision=1.0)
    rows = torch.utils.data.TensorDataset(x, labels)
    peer.fit(torch.utils.data.DataLoader(rows, batch_size=40))
    weight, bias = head_curvature(x, head(x).softmax(-1).detach())
    ours = 1.0 + 40 * torch.cat([weight.reshape(-1), bias])
    torch.testing.assert_close(peer.posterior_precision.detach(), ours, rtol=1e-3, atol=1e-3)


def test_members_start_apart_learn_apart_and_each_continues_from_itself(tmp_path: Path) -> None:
    lesson = problem(tmp_path, "ensemble", epochs=2)
    state = complete(lesson, tiny.generator(), SELECTION).state
    name = next(iter(state.point))
    assert state.point[name].shape == (3, *lesson.model.shapes[name])
    ones = [member(state, index) for index in range(3)]
    assert not torch.equal(ones[0].point["head.weight"], ones[1].point["head.weight"])
    back = joined(ones)
    assert all(torch.equal(back.point[n], value) for n, value in state.point.items())
    said = Predictor(lesson.model, state).probabilities(TEXTS, draws=3)
    for index, one in enumerate(ones):
        alone = Predictor(lesson.model, one).probabilities(TEXTS)[0]
        np.testing.assert_allclose(said[index], alone, atol=1e-5)


def test_gaussian_members_are_refused(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path)
    both = replace(BH_PEFT, members=2)
    with pytest.raises(ConfigError, match="cannot start apart; found Gaussian weights"):
        with_members(lesson.start, lesson.model, both)


def test_maps_prior_pulls_towards_zero_and_the_point_estimate_has_none(tmp_path: Path) -> None:
    """Weight decay as a Gaussian prior: λ/N · w/σ0²; a tight one keeps the weights small."""
    tight = replace(VARIANTS["map"], prior={}, default_prior=type(BH_PEFT.default_prior)(0.01))
    sizes = {}
    for label, variant in (("point", VARIANTS["point"]), ("tight", tight)):
        lesson = problems.lesson(tmp_path, variant=variant, epochs=20)
        point = complete(lesson, tiny.generator(), SELECTION).state.point
        sizes[label] = sum(float(value.square().sum()) for value in point.values())
    assert sizes["tight"] < 0.2 * sizes["point"]


def test_the_module_knows_every_finish_a_variant_names() -> None:
    named = {one.finish for one in VARIANTS.values()} - {""}
    assert named == set(complete_module.FINISHES)
    assert ENSEMBLE.members == 3

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bhpeft.errors import ConfigError, StateError
from bhpeft.learning.build import first_state
from bhpeft.learning.fit import fit
from bhpeft.learning.joint import Joint, Sharing, fit_jointly, over_grid
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT, BORA, Variant
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.together import TablesTogether
from bhpeft.models.tokens import TokenTable
from bhpeft.posterior import Hyper, MeanField, updated
from bhpeft.tasks import task
from tests import tiny
from tests.learning import problems

LINEAR = {"lora": {"rank": 2, "parameterisation": "linear"}}
PLAN = Plan(epochs=6, batch_size=8, learning_rate=1e-2, rho_learning_rate=0.5, max_epochs=6)


def asked(rows: int, seed: int) -> tuple[list[str], list[int]]:
    """Return texts about one of two words among others, and which it is."""
    source = tiny.generator(seed)
    labels = torch.randint(2, (rows,), generator=source).tolist()
    texts = [
        " ".join([("w7", "w51")[label]] * 2 + rest.split()[:4])
        for label, rest in zip(labels, problems.texts(rows, seed), strict=True)
    ]
    return texts, labels


def model_of(
    kind: str = "classification", seed: int = 3, parameterisation: str = "linear"
) -> AdaptedModel:
    predicted, family = task(kind), "llama" if kind == "causal_lm" else "bert"
    labels = ("no", "yes") if kind == "classification" else ()
    base = tiny.base(family)
    base.model.config.tie_word_embeddings = True
    made = [method("lora", LINEAR["lora"] | {"parameterisation": parameterisation})]
    return AdaptedModel(
        base, made, predicted.outputs(labels), generator=tiny.generator(seed),
        head=predicted.head(labels),
    )  # fmt: skip


def group(
    folder: Path,
    kind: str = "classification",
    *,
    tasks: int = 3,
    rows: int = 16,
    variant: Variant = BORA,
    plan: Plan = PLAN,
    seed: int = 0,
) -> dict[str, Lesson]:
    """Return tasks that ask the same of rows of their own."""
    model, chosen = model_of(kind, parameterisation=variant.parameterisation), task(kind)
    labels = ("no", "yes") if kind == "classification" else ()
    spec = replace(problems.spec((), variant), task=kind, labels=labels, methods=LINEAR, draws=4)
    found = {}
    for number in range(tasks):
        texts, answers = asked(rows, seed * 100 + number)
        chunk = (texts, answers, list(range(rows)))
        table = TokenTable.build(
            [chunk], tiny.tokenizer(), 16, folder, f"{kind}/{seed}/{number}/{rows}"
        )
        start = first_state(model, spec, variant, texts[:4], tiny.generator())
        found[f"t{number}"] = Lesson(
            model, start, start.prior, table, plan, variant, first=True, predicted=chosen
        )
    return found


def same(one: AdapterState, other: AdapterState) -> bool:
    q, p = one.posterior, other.posterior
    return torch.equal(q.mean, p.mean) and torch.equal(q.rho, p.rho)


def nll(tasks: dict[str, Lesson], joint: Joint, seed: int) -> float:
    """Return the mean NLL of every task's state on rows nobody trained on."""
    texts, answers = asked(64, seed)
    rows = np.arange(len(texts)), np.array(answers)
    found = []
    for name, one in tasks.items():
        said = Predictor(one.model, joint.states[name]).probabilities(texts).mean(0)
        found.append(-np.log(said[rows]).mean())
    return float(np.mean(found))


def test_without_sharing_each_task_is_learned_as_if_alone(tmp_path: Path) -> None:
    """τ = 0 is `fit` of each, to the bit."""
    tasks = group(tmp_path)
    joint = fit_jointly(tasks, tiny.generator(1), Sharing(tau=0.0))
    source = tiny.generator(1)
    for name, one in tasks.items():
        seed = int(torch.randint(2**62, (), generator=source))
        assert same(joint.states[name], fit(one, tiny.generator(seed)).state)
    assert joint.path == []


def test_pooled_tasks_are_one_posterior_of_all_their_rows(tmp_path: Path) -> None:
    """τ = ∞: the KL is scaled by the rows of all, so the one state is narrower than any of ours."""
    tasks = group(tmp_path, plan=replace(PLAN, epochs=8, rho_learning_rate=1.0))
    pooled = fit_jointly(tasks, tiny.generator(1), Sharing(tau=math.inf))
    apart = fit_jointly(tasks, tiny.generator(1), Sharing(tau=0.0))
    states = list(pooled.states.values())
    assert all(one is states[0] for one in states)
    rows = TablesTogether([one.rows for one in tasks.values()])
    assert len(rows) == 48
    assert rows.steps(8) == 6
    seen = [row for part in rows.minibatches(8, tiny.generator()) for row in part["input_ids"]]
    assert len(seen) == 48
    widths = [float(one.posterior.std.mean()) for one in apart.states.values()]
    assert float(states[0].posterior.std.mean()) < min(widths)
    assert torch.equal(pooled.population.mean, states[0].posterior.mean)


def test_what_is_learned_is_a_fixed_point_of_the_closed_forms(tmp_path: Path) -> None:
    """Θ and τ are those of the means that came out, here points; N(Θ, 1/τ) is every base prior."""
    tasks = group(tmp_path, variant=replace(BORA, estimator="mean"))
    joint = fit_jointly(tasks, tiny.generator(1), Sharing(held=0.5))
    states = list(joint.states.values())
    hyper = Hyper(held=0)
    points = [
        MeanField.from_std(q.mean, torch.full_like(q.mean, 1e-12), q.shapes)
        for q in (one.posterior for one in states)
    ]
    again = updated(joint.population, points, hyper)
    torch.testing.assert_close(again.mean, joint.population.mean, atol=1e-5, rtol=1e-4)
    assert again.tau == pytest.approx(joint.population.tau, rel=1e-3)
    for one in states:
        torch.testing.assert_close(one.prior.mean, joint.population.mean)
        torch.testing.assert_close(one.prior.std, joint.population.prior().std)


def test_tau_is_held_for_its_share_of_the_passes(tmp_path: Path) -> None:
    """Then it moves, by block: the head's and each layer's its own."""
    joint = fit_jointly(group(tmp_path), tiny.generator(1), Sharing(held=0.5))
    first = joint.path[0]
    assert set(first) == {"lora 0", "lora 1", "head"}
    assert joint.path[2] == first
    assert joint.path[3] != first
    assert first["lora 0"] == pytest.approx(100.0)
    assert first["head"] == pytest.approx(0.3**-2)


@pytest.mark.parametrize("tau", [1e2, 1e6])
def test_a_fixed_tau_holds_the_tasks_so_far_from_theta(tmp_path: Path, tau: float) -> None:
    """It stays what it was asked to be, and a larger one leaves less room."""
    joint = fit_jointly(group(tmp_path), tiny.generator(1), Sharing(tau=tau))
    assert set(joint.population.tau.values()) == {tau}
    gaps = [one.posterior.mean - joint.population.mean for one in joint.states.values()]
    spread = float(torch.stack(gaps).square().mean().sqrt())
    assert float(joint.population.mean.abs().mean()) > 1e-3
    assert (spread < 5e-3) if tau > 1e4 else (spread > 5e-3)


@pytest.fixture(scope="module", params=[1, 2, 3])
def together(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Lesson], dict[float | None, Joint]]:
    """Return five tasks of twelve rows that ask the same, alone and under a learned τ; one seed."""
    plan = replace(PLAN, epochs=30, max_epochs=30, batch_size=4)
    tasks = group(tmp_path_factory.mktemp("rows"), tasks=5, rows=12, plan=plan, seed=request.param)
    return tasks, over_grid(tasks, [0.0, None], request.param, Sharing())


def test_tasks_of_a_few_rows_learn_from_each_other(
    together: tuple[dict[str, Lesson], dict[float | None, Joint]],
) -> None:
    """In each of three seeds the NLL on unseen rows is lower by more than 0.05 nats."""
    tasks, found = together
    assert nll(tasks, found[None], 900) < nll(tasks, found[0.0], 900) - 0.05


def test_a_newcomer_starts_at_the_population_and_knows_what_the_others_learned(
    together: tuple[dict[str, Lesson], dict[float | None, Joint]],
) -> None:
    """Q = N(Θ, 1/τ) to the bit, and better than a start that knows nothing."""
    tasks, joint = together[0], together[1][None]
    one = tasks["t0"]
    new = joint.newcomer(one.start)
    assert torch.equal(new.posterior.mean, joint.population.mean)
    assert new.prior is new.posterior
    texts, answers = asked(64, 900)
    rows = np.arange(len(texts)), np.array(answers)
    said = [
        Predictor(one.model, state).probabilities(texts, draws=0)[0][rows]
        for state in (new, one.start)
    ]
    assert -np.log(said[0]).mean() < -np.log(said[1]).mean()


def test_a_language_model_is_learned_jointly_and_judged_by_its_tokens(tmp_path: Path) -> None:
    """MAP under the squared-norm prior, as in the paper: nothing is drawn, σ follows the prior."""
    variant = replace(BORA, estimator="mean", kl_weight=1.0)
    tasks = group(tmp_path, "causal_lm", variant=variant, tasks=2, rows=8)
    joint = fit_jointly(tasks, tiny.generator(1), Sharing(tau=50.0))
    for name, one in tasks.items():
        texts, _ = asked(8, int(name[1:]))
        before, after = (
            Predictor(one.model, state).probabilities(texts, draws=0)
            for state in (one.start, joint.states[name])
        )
        zeros = np.zeros(8)
        said = [
            one.predicted.scored(found, zeros).quality(np.random.default_rng(0)).perplexity
            for found in (before, after)
        ]
        assert said[1] < said[0]


def test_a_factor_that_moves_beside_the_gaussian_one_is_no_shared_gauge(tmp_path: Path) -> None:
    """Under `blob` each task's B would turn its own A's axes."""
    tasks = group(tmp_path, variant=BH_PEFT)
    with pytest.raises(StateError, match=r"cannot be averaged.*lora.b learned as a point.*bora"):
        fit_jointly(tasks, tiny.generator(1))


def test_tasks_between_other_factors_are_refused(tmp_path: Path) -> None:
    """Another seed draws other frozen factors: another gauge."""
    tasks = group(tmp_path)
    strange = tasks["t1"].start.with_spec(gauge="of another seed")
    tasks["t1"] = replace(tasks["t1"], start=strange)
    with pytest.raises(StateError, match="different gauges"):
        fit_jointly(tasks, tiny.generator(1))
    joint = fit_jointly({"t0": tasks["t0"]}, tiny.generator(1))
    with pytest.raises(StateError, match="different gauges"):
        joint.newcomer(strange)


@pytest.mark.parametrize("wrong", [{"tau": -1.0}, {"tau": math.nan}, {"held": 2.0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="cannot share so"):
        Sharing(**wrong)  # type: ignore[arg-type]


def test_tasks_that_cannot_be_learned_beside_each_other_are_refused(tmp_path: Path) -> None:
    tasks = group(tmp_path)
    with pytest.raises(ConfigError, match="needs tasks"):
        fit_jointly({}, tiny.generator(1))
    with pytest.raises(ConfigError, match=r"'t1' cannot be learned beside.*later round"):
        fit_jointly(tasks | {"t1": replace(tasks["t1"], first=False)}, tiny.generator(1))
    with pytest.raises(ConfigError, match="another model, variant or plan"):
        fit_jointly(tasks | {"t1": replace(tasks["t1"], model=model_of())}, tiny.generator(1))

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bhpeft.errors import Diverged, FitError, RhoTravelTooShort
from bhpeft.learning.fit import Fitted, Lesson, fit
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState
from bhpeft.learning.variants import BH_PEFT, BLOB, Variant
from bhpeft.posterior import MeanField, blob_kl_weights
from tests import tiny
from tests.learning import problems
from tests.learning.test_state import tensors_of

UNIONS = [
    *([name] for name in problems.SETTINGS if name != "bitfit"),
    ["lora", "adapter", "prefix"],
]


def learned(lesson: Lesson, seed: int = 7) -> Fitted:
    return fit(lesson, tiny.generator(seed))


def copied(state: AdapterState) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors_of(state).items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def training_nll(lesson: Lesson, state: AdapterState) -> float:
    """Return the mean weights' NLL on the training rows."""
    texts = problems.texts(len(lesson.rows))
    probs = Predictor(lesson.model, state).probabilities(texts, draws=0)[0]
    return float(-np.log(probs[np.arange(len(texts)), problems.labels(texts)]).mean())


def distance(after: AdapterState, before: AdapterState) -> float:
    """Return how far the point weights moved."""
    gaps = (after.point[name] - value for name, value in before.point.items())
    return math.sqrt(sum(float(gap.square().sum()) for gap in gaps))


@pytest.fixture
def later() -> AdapterState:
    """What an earlier round left."""
    return problems.later(problems.start(problems.model()))


@pytest.mark.parametrize("variant", [BH_PEFT, BLOB, BH_PEFT.point()], ids=lambda v: v.name)
def test_the_loss_falls(tmp_path: Path, variant: Variant) -> None:
    """Every variant learns the batch it is given, the point estimate with P = 0 too."""
    # G = √σ starts at 0.05: a step in it is smaller than one in softplus's rho ≈ log σ.
    rho_rate = 2e-3 if variant.scale == "square" else 0.2
    # BLoB's KL step weighs the same on 24 rows as on 24,000: a slow one, or the rows are not heard.
    lesson = problems.lesson(
        tmp_path, variant=variant, epochs=24, learning_rate=3e-2, rho_learning_rate=rho_rate,
        kl_learning_rate=7e-3,
    )  # fmt: skip
    found = learned(lesson)
    assert training_nll(lesson, found.state) < 0.6 * training_nll(lesson, lesson.start)
    assert found.curve[-1]["nll"] < found.curve[0]["nll"]
    assert found.steps == 24 * 3
    assert found.state.posterior.size == lesson.start.posterior.size


def test_the_point_estimate_pays_no_kl_and_has_no_rho_to_check(tmp_path: Path) -> None:
    found = learned(problems.lesson(tmp_path, variant=BH_PEFT.point()))
    assert all(point["kl"] == 0.0 for point in found.curve)
    assert all(point["loss"] == point["nll"] for point in found.curve)
    assert found.travel_met is None


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    """Draws and the order of rows come from the generator, and from nowhere else."""
    one, two, other = (copied(learned(problems.lesson(tmp_path), seed).state) for seed in (7, 7, 8))
    assert same(one, two)
    assert not same(one, other)


def test_a_fit_leaves_the_global_generator_the_start_and_the_model_as_they_were(
    tmp_path: Path,
) -> None:
    lesson = problems.lesson(tmp_path)
    random, start = torch.random.get_rng_state(), copied(lesson.start)
    model = {name: value.clone() for name, value in lesson.model.model.named_parameters()}
    learned(lesson)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert same(start, tensors_of(lesson.start))
    assert all(torch.equal(model[n], value) for n, value in lesson.model.model.named_parameters())


def spoilt(state: AdapterState, at: str) -> AdapterState:
    """Return the state with one number that is not one."""
    q, point = state.posterior, {name: value.clone() for name, value in state.point.items()}
    mean, rho = q.mean.clone(), q.rho.clone()
    {"mean": mean, "rho": rho, "point": point["head.weight"].view(-1)}[at][0] = float("nan")
    return replace(state, posterior=MeanField(mean, rho, q.shapes, q.scale), point=point)


@pytest.mark.parametrize("at", ["mean", "rho", "point"])
def test_a_start_that_is_not_finite_is_named_at_the_first_step(
    tmp_path: Path, later: AdapterState, at: str
) -> None:
    lesson = problems.lesson(tmp_path, state=spoilt(later, at), first=False)
    with pytest.raises(Diverged, match="diverged at step 0 of 6; found NLL nan"):
        learned(replace(lesson, prior=later.posterior))


@pytest.mark.parametrize("variant", [BH_PEFT, BLOB, BH_PEFT.point()], ids=lambda v: v.name)
@pytest.mark.parametrize("rate", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("epochs", [1, 2, 6])
def test_a_diverging_fit_is_a_named_error_and_the_start_is_untouched(
    tmp_path: Path, variant: Variant, rate: float, epochs: int
) -> None:
    """Whether the loss is read in time or only the last step went wrong."""
    lesson = problems.lesson(tmp_path, variant=variant, learning_rate=rate, epochs=epochs)
    before = copied(lesson.start)
    with pytest.raises(Diverged, match="learning_rate; the batch stays pending"):
        learned(lesson)
    assert same(before, tensors_of(lesson.start))


def test_a_round_that_teaches_nothing_does_not_move_a_single_bit(tmp_path: Path) -> None:
    """Zero data is the identity: q starts at the prior, where the KL's gradient is exactly 0.

    With B = 0 and frozen the likelihood does not depend on A, so all that could move q is the KL.
    """
    begun = problems.start(problems.model())
    prior = problems.later(begun).posterior
    start = replace(begun, posterior=prior)
    lesson = problems.lesson(tmp_path, state=start, first=False, point_weights="frozen", epochs=4)
    q = learned(replace(lesson, prior=prior)).state.posterior
    assert torch.equal(q.mean, prior.mean)
    assert torch.equal(q.rho, prior.rho)


def test_away_from_the_prior_the_kl_alone_pulls_back(tmp_path: Path) -> None:
    """The identity above is no accident of a dead gradient."""
    start = problems.start(problems.model())
    lesson = problems.lesson(tmp_path, state=start, first=False, point_weights="frozen", epochs=4)
    prior = start.prior
    q = learned(replace(lesson, prior=prior)).state.posterior
    assert float(q.kl(prior)) < float(start.posterior.kl(prior))


def test_frozen_point_weights_stay_equal_to_the_bit_and_anchored_ones_move_less_than_free(
    tmp_path: Path, later: AdapterState
) -> None:
    """All forgetting could happen in B and the head; the anchor is their prior."""
    moved = {}
    for choice in ("frozen", "anchored", "free"):
        state = replace(later, precision={n: 1000 * p for n, p in later.precision.items()})
        lesson = problems.lesson(tmp_path, state=state, first=False, point_weights=choice, epochs=6)
        found = learned(lesson)
        moved[choice] = distance(found.state, later)
        assert not torch.equal(found.state.posterior.mean, later.posterior.mean)
    assert moved["frozen"] == 0.0
    assert 0.0 < moved["anchored"] < 0.5 * moved["free"]


def test_round_0_moves_its_point_weights_whatever_the_plan_says(tmp_path: Path) -> None:
    """Frozen or anchored to what? There is nothing learned yet."""
    for choice in ("frozen", "anchored"):
        lesson = problems.lesson(tmp_path, point_weights=choice)
        assert distance(learned(lesson).state, lesson.start) > 0.0


def test_the_anchors_precision_grows_by_the_fisher_information_and_ages_with_forgetting(
    tmp_path: Path, later: AdapterState
) -> None:
    """π ← ρ·π + N·F/λ: what an age-0 anchor adds does not depend on what was there."""

    def precision(state: AdapterState, forgetting: float) -> torch.Tensor:
        lesson = problems.lesson(
            tmp_path, state=state, first=False, forgetting=forgetting, point_weights="free"
        )
        found = learned(lesson).state.precision
        return torch.cat([value.flatten() for value in found.values()])

    old = torch.cat([value.flatten() for value in later.precision.values()])
    added = precision(later, 0.0)
    assert bool((added >= 0).all())
    assert float(added.max()) > 0
    torch.testing.assert_close(precision(later, 1.0), old + added)
    torch.testing.assert_close(precision(later, 0.5), 0.5 * old + added)


@pytest.mark.parametrize("size", [4, 8, 24])
def test_the_kl_is_scaled_by_lambda_over_rows_whatever_the_minibatch(
    tmp_path: Path, later: AdapterState, size: int
) -> None:
    """Σ over weights times λ/N: not over minibatches, and not a mean over weights."""
    variant = replace(BH_PEFT, kl_weight=0.7)
    lesson = problems.lesson(
        tmp_path, state=later, first=False, batch_size=size, variant=variant, epochs=3
    )
    for point in learned(replace(lesson, prior=lesson.start.prior)).curve:
        assert point["loss"] - point["nll"] == pytest.approx(0.7 / 24 * point["kl"], rel=1e-6)


def test_the_kl_is_warmed_up_over_the_first_tenth_of_round_0_only(
    tmp_path: Path, later: AdapterState
) -> None:
    lesson = problems.lesson(tmp_path, epochs=4, kl_warmup=1.0)
    curve = learned(lesson).curve
    shares = [(p["loss"] - p["nll"]) / p["kl"] * 24 / BH_PEFT.kl_weight for p in curve]
    assert [p["step"] for p in curve] == [0, 10, 11]
    assert shares == pytest.approx([0, 10 / 12, 11 / 12], abs=1e-6)
    after = problems.lesson(tmp_path, state=later, first=False, kl_warmup=1.0)
    first = learned(replace(after, prior=later.prior)).curve[0]
    assert first["loss"] > first["nll"]


def test_blobs_kl_increases_over_an_epoch_and_costs_the_same_over_all_of_it(
    tmp_path: Path, later: AdapterState
) -> None:
    """λ/N · M·π_i with π_i = 2^i/(2^M − 1): the epoch's total is that of the constant schedule."""
    lesson = problems.lesson(
        tmp_path, state=later, first=False, batch_size=5, epochs=13, kl_learning_rate=0.5,
        variant=replace(BLOB, scale="softplus"),
    )  # fmt: skip
    minibatches = lesson.steps_an_epoch
    assert minibatches == 5
    weights = blob_kl_weights(minibatches)
    assert sum(weights) == pytest.approx(1.0)
    for point in learned(replace(lesson, prior=later.prior)).curve:
        share = (point["loss"] - point["nll"]) / point["kl"] * 24
        assert share == pytest.approx(minibatches * weights[int(point["step"]) % 5], rel=1e-5)


def test_blob_draws_anew_for_each_example_and_bh_peft_once_a_minibatch(tmp_path: Path) -> None:
    """How many draws are in place is read from inside the forward pass."""
    seen: dict[str, set[int | None]] = {}
    for variant in (BH_PEFT, BLOB):
        lesson = problems.lesson(tmp_path, variant=variant)
        draws = seen.setdefault(variant.name, set())
        sites = lesson.model.sites
        hook = lesson.model.head.register_forward_pre_hook(
            lambda *_, draws=draws, sites=sites: draws.add(sites.draws)
        )
        learned(lesson)
        hook.remove()
    assert seen == {"bh_peft": {None}, "blob": {8}}


@pytest.mark.parametrize("estimator", ["shared", "per_example", "flipout"])
def test_blob_learns_a_and_its_sigma_under_every_estimator(tmp_path: Path, estimator: str) -> None:
    """A is Gaussian and B a point that starts at zero: both learn, and so does σ."""
    lesson = problems.lesson(
        tmp_path, variant=replace(BLOB, estimator=estimator), epochs=24, learning_rate=3e-2,
        rho_learning_rate=2e-3, kl_learning_rate=7e-3,
    )  # fmt: skip
    found = learned(lesson)
    assert training_nll(lesson, found.state) < 0.6 * training_nll(lesson, lesson.start)
    before, after = lesson.start, found.state
    assert {name.rsplit(".", 1)[-1] for name in after.posterior.shapes} == {"a"}
    assert {n.rsplit(".", 1)[-1] for n in after.point if "lora" in n} == {"b"}
    assert not any(before.point[name].any() for name in before.point if "lora" in name)
    assert all(after.point[name].any() for name in after.point if "lora" in name)
    assert (after.posterior.rho != before.posterior.rho).double().mean() > 0.9


def test_blobs_kl_is_a_step_of_sgd_of_its_own_beside_adam(
    tmp_path: Path, later: AdapterState
) -> None:
    """With nothing from the likelihood, a step moves the mean by η·λ·π · (m − m̃)/s̃², no 1/N in it.

    That is the published recipe: SGD sees π·KL, whose π add up to one over an epoch.
    """
    silent = {name: torch.zeros_like(value) for name, value in later.point.items()}
    prior = replace(later.posterior, mean=later.posterior.mean + 0.01)
    lesson = problems.lesson(
        tmp_path, state=replace(later, point=silent), first=False, variant=BLOB, max_epochs=1,
        point_weights="frozen", batch_size=24, epochs=1, warmup=0.0, kl_learning_rate=1e-6,
    )  # fmt: skip
    moved = learned(replace(lesson, prior=prior)).state.posterior.mean - later.posterior.mean
    expected = 1e-6 * 0.01 / prior.std.square()
    torch.testing.assert_close(moved, expected, rtol=1e-2, atol=1e-7)


def test_blobs_sigma_arrives_and_a_round_too_short_for_it_is_lengthened(tmp_path: Path) -> None:
    """The published start is σ ≤ 0.0025 and the prior 0.2: data that say little leave σ there."""
    short = problems.lesson(
        tmp_path, variant=BLOB, epochs=1, kl_learning_rate=0.02, rho_learning_rate=1e-2, rows=16
    )
    found = learned(short)
    assert found.travel_met is True
    assert 5 < found.epochs < 20
    assert float(found.state.posterior.std.median()) > 0.8 * 0.2


def test_a_round_too_short_for_blobs_own_kl_step_fails_and_says_what_would_do(
    tmp_path: Path,
) -> None:
    lesson = problems.lesson(tmp_path, variant=BLOB, epochs=1, max_epochs=2, kl_learning_rate=0.02)
    with pytest.raises(RhoTravelTooShort, match=r"KL's own steps.*kl_learning_rate by \d"):
        learned(lesson)


def test_a_round_too_short_for_rho_is_lengthened_until_it_can_arrive(tmp_path: Path) -> None:
    """Otherwise the reported posterior is its initialisation."""
    short = problems.lesson(tmp_path, epochs=1, rho_learning_rate=0.15, max_epochs=60)
    found = learned(short)
    assert found.travel_met is True
    assert 1 < found.epochs < 60
    assert found.steps == 3 * found.epochs
    long_enough = learned(problems.lesson(tmp_path, epochs=2, rho_learning_rate=5.0))
    assert (long_enough.epochs, long_enough.travel_met) == (2, True)


def test_a_round_that_may_not_be_lengthened_fails_and_says_how_much_more_would_do(
    tmp_path: Path,
) -> None:
    lesson = problems.lesson(tmp_path, epochs=2, rho_learning_rate=1e-3, max_epochs=3)
    with pytest.raises(RhoTravelTooShort, match=r"Train .* more steps"):
        learned(lesson)


def test_rho_really_moves_towards_its_optimum(tmp_path: Path) -> None:
    """Where the data say little σ must grow from its small start towards the prior's."""
    lesson = problems.lesson(tmp_path, epochs=12, rho_learning_rate=0.3)
    found = learned(lesson).state.posterior
    assert float(found.std.median()) > 2 * float(lesson.start.posterior.std.median())


def test_checkpointing_gives_the_same_posterior(tmp_path: Path) -> None:
    """Layers computed again in the backward pass find the weights of this draw there."""
    plain, again = (
        learned(problems.lesson(tmp_path, ["lora", "adapter"], checkpointing=on)).state
        for on in (False, True)
    )
    for name, tensor in tensors_of(plain).items():
        torch.testing.assert_close(tensors_of(again)[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_fit_that_takes_too_long_is_a_named_error(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path, max_seconds=1e-6)
    before = copied(lesson.start)
    with pytest.raises(FitError, match=r"longer than its limit.*more than 1e-06 s"):
        learned(lesson)
    assert same(before, tensors_of(lesson.start))


def test_a_batch_without_training_rows_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(FitError, match="no training rows"):
        learned(problems.lesson(tmp_path, rows=0))


def test_the_watcher_hears_of_every_step_and_of_the_end(tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    fit(problems.lesson(tmp_path), tiny.generator(), lambda *at: heard.append(at))
    assert [done for done, _ in heard] == list(range(1, 7))
    assert heard[-1] == (6, 6)


@pytest.mark.parametrize(
    ("family", "methods", "variant"),
    [
        *itertools.product(["bert", "llama"], UNIONS, [BH_PEFT, BH_PEFT.point()]),
        # Llama has no biases.
        *itertools.product(["bert", "gpt2"], [["bitfit"]], [BH_PEFT, BH_PEFT.point()]),
        ("bert", list(problems.SETTINGS), BH_PEFT),
        ("bert", ["lora"], BLOB),
        ("llama", ["lora"], BLOB),
    ],
)
def test_every_method_trains_saves_loads_and_predicts(
    tmp_path: Path, family: str, methods: list[str], variant: Variant
) -> None:
    """On an encoder and on a decoder, at the smallest size at which all parts meet."""
    lesson = problems.lesson(
        tmp_path, methods, family=family, variant=variant, rows=16, epochs=1,
        rho_learning_rate=9.0, kl_learning_rate=9.0,
    )  # fmt: skip
    found = learned(lesson)
    assert found.steps == 2
    assert not same(tensors_of(found.state), tensors_of(lesson.start))
    assert bool(found.state.posterior.size) == bool(variant.gaussian)
    again = AdapterState.load(found.state.save(tmp_path / "state"))
    frame = Predictor(lesson.model, again).predict(["w4 w5", "w60"])
    assert set(frame["label"]) <= {"no", "yes"}
    assert frame["probability"].between(0.5, 1).all()
    assert frame["mutual_information"].ge(-1e-12).all()


def test_a_round_takes_no_more_steps_than_its_plan_allows(tmp_path: Path) -> None:
    """They end in the middle of an epoch, and the learning rates have fallen by then."""
    whole = learned(problems.lesson(tmp_path, variant=BH_PEFT.point(), epochs=4))
    found = learned(problems.lesson(tmp_path, variant=BH_PEFT.point(), epochs=4, max_steps=7))
    assert whole.steps == 12
    assert found.steps == 7
    assert found.curve[-1]["step"] == 6
    assert found.curve[-1]["learning_rate"] < 0.2 * found.curve[0]["learning_rate"] + 1e-3

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from bhpeft.data.contract import load_contract
from bhpeft.data.rows import read_rows
from bhpeft.data.split import side_of
from bhpeft.errors import BaseModelMismatch, ConfigError, StateError, UnknownName
from bhpeft.learning.build import anew
from bhpeft.learning.state import AdapterState
from bhpeft.methods import block_of
from bhpeft.posterior import MeanField, power_prior
from bhpeft.registry import Registry
from bhpeft.rounds import intake as intake_module
from bhpeft.rounds.intake import Intake, take_in
from bhpeft.rounds.recording import running
from bhpeft.rounds.replay import NOTHING, Replay
from bhpeft.rounds.spec import model_of, spec_of, variant_of
from bhpeft.rounds.steps import prepare
from bhpeft.rounds.training import Trained, train
from tests import tiny
from tests.rounds.conftest import Chain, Steps, begin

Learn = Callable[..., Trained]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A stream with two batches; nothing here needs its registry."""
    chain = begin(Registry("sqlite://"), tmp_path_factory.mktemp("training"), "training")
    for number in (1, 2):
        chain.deliver(f"b{number}", day=number)
    return chain


def taken(
    chain: Chain, batch_id: str, parent: AdapterState | None, replay: Replay = NOTHING
) -> tuple[Any, Intake]:
    from bhpeft.data.batch import open_batch

    batch = open_batch(chain.stream.landing / chain.stream.name / batch_id)
    contract = chain.contract
    model = model_of(chain.stream, contract, parent)
    return model, take_in(chain.stream, batch, contract, model, chain.stream.cache, replay)


def trained(chain: Chain, batch_id: str, parent: AdapterState | None = None) -> Trained:
    model, intake = taken(chain, batch_id, parent)
    return train(chain.stream, intake, model, parent)


@pytest.fixture(scope="module")
def first(home: Chain) -> AdapterState:
    """What round 0 leaves."""
    return trained(home, "b1").state


def same(left: MeanField, right: MeanField) -> bool:
    return torch.equal(left.mean, right.mean) and torch.equal(left.rho, right.rho)


def test_the_same_batch_is_learned_the_same_way_again(home: Chain, first: AdapterState) -> None:
    """The round's seed comes from the stream's and from the batch's content."""
    again = trained(home, "b1").state
    assert same(again.posterior, first.posterior)
    assert all(torch.equal(again.point[name], value) for name, value in first.point.items())
    other = trained(home.with_learning(seed=1), "b1").state
    assert not same(other.posterior, first.posterior)


def test_a_round_computes_with_the_streams_threads_and_else_with_the_operators(home: Chain) -> None:
    """What OMP_NUM_THREADS or torch was told stands until a stream file says otherwise."""
    before = torch.get_num_threads()
    named = home.stream.model.model_copy(update={"threads": before + 1})
    try:
        model_of(home.stream, home.contract, None)
        assert torch.get_num_threads() == before
        stream = home.stream.model_copy(update={"model": named})
        model_of(stream, home.contract, None)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_how_a_model_runs_is_what_was_measured_or_what_the_stream_file_says_and_is_on_the_run(
    chain: Chain,
) -> None:
    """All six choices: measured once, so the second model finds the same; and overridden."""
    said = {
        "dtype": "bfloat16",
        "attention": "explicit",
        "threads": torch.get_num_threads(),
        "folded_rows": 24,
        "explicit_tokens": 96,
        "laid_out": True,
    }
    measured = running(model_of(chain.stream, chain.contract, None))
    assert measured.keys() == said.keys()
    named = chain.changed(model=chain.stream.model.model_copy(update=said))
    for stream, wanted in ((chain, measured), (named, said)):
        assert running(model_of(stream.stream, stream.contract, None)) == wanted
    named.learn(named.deliver("said"), Steps(figures=True))
    (run,) = named.runs
    assert {n: run.data.params[n] for n in said} == {n: str(value) for n, value in said.items()}


@pytest.mark.parametrize("megabytes", [0, 64])
def test_what_frozen_layers_make_of_the_rows_is_kept_within_the_streams_limit(
    home: Chain, tmp_path: Path, megabytes: int
) -> None:
    """In a folder of the stream's, and only where layers are frozen."""
    stream = home.with_learning(adapted_layers=1).stream
    base = stream.model.model_copy(update={"layers": 2, "feature_cache_mb": megabytes})
    model, intake = taken(
        replace(home, stream=stream.model_copy(update={"model": base})), "b1", None
    )
    assert model.frozen_layers == 1
    stream = stream.model_copy(update={"model": base, "home": tmp_path})
    train(stream, intake, model, None)
    kept = list(stream.cache.rglob("*.features"))
    assert len(kept) == (1 if megabytes else 0)
    assert not list(stream.cache.rglob("*.partial"))


@pytest.mark.parametrize("forgetting", [1.0, 0.7, 0.0])
def test_the_prior_is_the_parents_posterior_widened_by_the_power_prior(
    home: Chain, first: AdapterState, forgetting: float
) -> None:
    """1/s̃² = ρ/s² + (1−ρ)/s0², m̃ = s̃²(ρm/s² + (1−ρ)m0/s0²), and the same bits at ρ = 1."""
    found = trained(home.with_learning(forgetting=forgetting), "b2", first)
    old, base = first.posterior, first.prior
    precision = forgetting / old.std.double() ** 2 + (1 - forgetting) / base.std.double() ** 2
    mean = (
        forgetting * old.mean.double() / old.std.double() ** 2
        + (1 - forgetting) * base.mean.double() / base.std.double() ** 2
    ) / precision
    torch.testing.assert_close(found.prior.std.double(), precision**-0.5, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.prior.mean.double(), mean, rtol=1e-4, atol=1e-7)
    if forgetting == 1.0:
        assert same(found.prior, old)
    assert found.state.spec.forgetting == forgetting
    assert same(found.state.prior, base)


def test_a_later_round_starts_at_its_prior(home: Chain, first: AdapterState) -> None:
    """Before the first step the KL is 0 nats: without data nothing would move."""
    found = trained(home.with_learning(forgetting=0.5), "b2", first)
    assert found.fitted.curve[0]["kl"] == 0.0
    assert found.health["kl_nats"] > 0
    assert not same(found.prior, power_prior(first.posterior, first.prior, 1.0))


def test_a_round_that_starts_over_does_so_at_a_narrow_sigma(
    home: Chain, first: AdapterState
) -> None:
    """At the base prior's mean and a first round's σ; wider draws would drown the rows."""
    chain = home.with_learning(forgetting=0.0)
    found = trained(chain, "b2", first)
    start = anew(found.prior, variant_of(chain.stream), tiny.generator())
    assert same(found.prior, first.prior)
    torch.testing.assert_close(start.mean, first.prior.mean)
    torch.testing.assert_close(start.std, torch.full_like(start.std, 0.02))
    assert found.fitted.curve[0]["kl"] == pytest.approx(float(start.kl(found.prior)), rel=1e-4)


def test_the_state_says_what_it_has_absorbed_and_under_which_numbers(
    home: Chain, first: AdapterState
) -> None:
    spec = trained(home, "b2", first).state.spec
    assert [a.batch_id for a in spec.absorbed] == ["b1", "b2"]
    assert all(len(a.digest) == 64 and 60 < a.rows < 100 for a in spec.absorbed)
    assert (spec.kl_weight, spec.draws, spec.labels) == (0.3, 2, ("bad", "good"))
    assert spec.gauge == first.spec.gauge != ""
    assert spec.fingerprint == first.spec.fingerprint != ""
    assert spec.methods["lora"]["rank"] == 2
    assert "alpha" in spec.methods["lora"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("kl_weight", {"learning": {"kl_weight": 1.0}}),
        ("methods", {"learning": {"methods": ("lora", "adapter")}}),
        ("methods", {"learning": {"settings": {"lora": {"rank": 4}}}}),
        ("methods", {"learning": {"adapted_layers": 1}}),
        ("variant", {"learning": {"variant": "blob"}}),
        ("variant", {"learning": {"gaussian": False}}),
        ("layers", {"model": {"layers": 2}}),
        ("max_length", {"model": {"max_length": 64}}),
        ("pooling", {"model": {"pooling": "first"}}),
    ],
)
def test_a_chain_cannot_be_continued_under_another_stream_file(
    home: Chain, first: AdapterState, name: str, changes: dict[str, dict[str, Any]]
) -> None:
    """The posterior would mean something else; the error names what was changed."""
    stream = home.stream
    for section, values in changes.items():
        part = getattr(stream, section).model_copy(update=values)
        stream = stream.model_copy(update={section: part})
    with pytest.raises(StateError, match=f"{name} is not the champion's.*Put {name} back"):
        model_of(stream, home.contract, first)


def test_a_label_that_was_added_makes_room_in_the_head(home: Chain, first: AdapterState) -> None:
    contract = replace(home.contract, labels=("bad", "good", "mixed"))
    assert model_of(home.stream, contract, first).shapes["head.weight"] == (3, 384)


def test_spelling_out_a_default_changes_nothing(home: Chain, first: AdapterState) -> None:
    """λ, methods and pooling as the variant and the base have them anyway."""
    same_thing = home.with_learning(kl_weight=0.3).changed(
        model=home.stream.model.model_copy(update={"pooling": first.spec.pooling})
    )
    model_of(same_thing.stream, home.contract, first)


def test_a_base_model_that_was_changed_is_refused(tmp_path: Path) -> None:
    """One weight of the files in the same folder is another base."""
    chain = begin(Registry("sqlite://"), tmp_path, "other-base")
    base = tmp_path / "base"
    tiny.bert().save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    model = chain.stream.model.model_copy(update={"base": str(base), "layers": None})
    chain = chain.changed(model=model)
    chain.deliver("b1")
    state = trained(chain, "b1").state
    file = base / "model.safetensors"
    weights = load_file(file)
    weights["encoder.layer.0.output.dense.bias"][0] += 0.01
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BaseModelMismatch, match="Pin the base model's revision"):
        model_of(chain.stream, chain.contract, state)


def test_a_point_estimate_runs_through_the_same_rounds(home: Chain) -> None:
    """The baseline has no σ, no KL and one answer."""
    point = home.with_learning(gaussian=False)
    first = trained(point, "b1")
    second = trained(point, "b2", first.state)
    assert second.state.posterior.size == 0
    assert second.health["kl_nats"] == 0.0
    assert (second.state.spec.variant, second.state.spec.draws) == ("bh_peft_point", 0)
    before, after = first.state.point["head.weight"], second.state.point["head.weight"]
    assert not torch.equal(before, after)


def test_the_streams_weight_of_the_kl_overrules_the_variants(home: Chain) -> None:
    assert variant_of(home.stream).kl_weight == 0.3
    assert variant_of(home.with_learning(kl_weight=2.0).stream).kl_weight == 2.0
    assert spec_of(home.with_learning(kl_weight=2.0).stream, home.contract).kl_weight == 2.0


@pytest.mark.parametrize(
    ("changes", "problem", "said"),
    [
        ({"gates": {"nlll": False}}, UnknownName, "no gate called 'nlll'"),
        ({"gates": {"nll": {"margn": 1.0}}}, ConfigError, "Did you mean 'margin'"),
        ({"learning": {"variant": "blobb"}}, UnknownName, "no variant called 'blobb'"),
        ({"learning": {"methods": ("lorra",)}}, UnknownName, "no method called 'lorra'"),
        ({"learning": {"settings": {"lora": {"rnk": 2}}}}, ConfigError, "no setting 'rnk'"),
    ],
)
def test_a_name_nobody_knows_is_found_before_anything_is_trained(
    home: Chain, changes: dict[str, Any], problem: type[Exception], said: str
) -> None:
    from bhpeft.data.batch import open_batch

    learning = home.stream.learning.model_copy(update=changes.pop("learning", {}))
    stream = home.stream.model_copy(update={"learning": learning, **changes})
    batch = open_batch(home.stream.landing / "training" / "b1")
    with pytest.raises(problem, match=said):
        prepare(stream, batch, home.contract, None)


def test_the_health_of_a_posterior_is_told_in_numbers(home: Chain, first: AdapterState) -> None:
    health = trained(home, "b2", first).health
    assert health["finite"] is True
    assert 0 < health["std_ratio_median"] < 2
    assert health["share_floor"] == 0.0
    assert 0.0 <= health["share_ceiling"] < 0.05
    assert health["rho_travel_met"] is True
    assert sum(health["kl_by_block"].values()) == pytest.approx(health["kl_nats"])
    assert set(health["kl_by_block"]) == {"lora 0"}


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("3.query.lora.a", "lora 3"),
        ("11.ffn.adapter.down", "adapter 11"),
        ("3.attention.prefix.key", "prefix 3"),
        ("head.weight", "head"),
    ],
)
def test_surprise_is_told_by_method_and_layer(name: str, block: str) -> None:
    assert block_of(name) == block


def test_a_batch_is_split_by_its_texts_alone(home: Chain) -> None:
    """Every row is on one side, and on the side its text says."""
    _, intake = taken(home, "b1", None)
    frame = pd.read_parquet(intake.batch.folder)
    sides = side_of(frame["text"].tolist())
    assert len(intake.train) == (sides == "train").sum()
    assert intake.holdout["text"].tolist() == frame["text"][sides == "holdout"].tolist()
    assert intake.selection["text"].tolist() == frame["text"][sides == "selection"].tolist()
    assert list(intake.holdout.columns) == ["text", "label", "domain"]
    rows = sorted(int(row) for part in intake.train.ordered(64) for row in part["rows"])
    assert rows == np.flatnonzero(sides == "train").tolist()


def test_label_shares_are_the_training_rows_and_never_zero(home: Chain) -> None:
    """A label the batch lacks must not have probability 0 in the baseline."""
    _, intake = taken(home, "b1", None)
    frame = pd.read_parquet(intake.batch.folder)
    train = frame[side_of(frame["text"].tolist()) == "train"]
    counts = train["label"].value_counts().reindex(["bad", "good"]) + 1
    np.testing.assert_allclose(intake.known, counts / counts.sum())


def test_what_is_held_out_of_a_large_batch_is_a_fixed_sample_of_it(
    home: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with the batch, and every row is as likely as any other."""
    _, whole = taken(home, "b1", None)
    monkeypatch.setattr(intake_module, "MOST_HELD_ROWS", 9)
    _, some = taken(home, "b1", None)
    _, again = taken(home, "b1", None)
    assert len(some.holdout) == 9 < len(whole.holdout)
    assert some.holdout["text"].tolist() == again.holdout["text"].tolist()
    assert set(some.holdout["text"]) <= set(whole.holdout["text"])
    assert some.holdout["text"].tolist() != whole.holdout["text"].tolist()[:9]


def test_a_batch_is_tokenised_once(home: Chain) -> None:
    """The table is found again by its content; a contract that reads other columns has its own."""
    _, one = taken(home, "b1", None)
    _, two = taken(home, "b1", None)
    assert one.train.path == two.train.path
    swapped = replace(load_contract(home.stream.contract), text="domain")
    model = model_of(home.stream, swapped, None)
    other = take_in(home.stream, one.batch, swapped, model, home.stream.cache)
    assert other.train.path != one.train.path


def bounded(chain: Chain, steps: int) -> Chain:
    # rho has to make its way in so few steps.
    plan = chain.stream.learning.plan | {"max_steps": steps, "rho_learning_rate": 3.0}
    return chain.with_learning(plan=plan)


def test_a_batch_larger_than_its_steps_is_learned_from_a_random_sample_of_it(home: Chain) -> None:
    """Rows that no step will look at are not tokenised, and the batch's order does not choose."""
    whole = taken(home, "b1", None)[1]
    chain = bounded(home, 5)
    model, some = taken(chain, "b1", None)
    most = 5 * chain.stream.learning.plan["batch_size"]
    rows = [int(row) for part in some.train.ordered(64) for row in part["rows"]]
    every = {int(row) for part in whole.train.ordered(64) for row in part["rows"]}
    # It is aimed three standard deviations low, and may come out three lower still.
    assert most - 6 * most**0.5 < len(rows) <= most < len(every)
    assert set(rows) < every
    assert sorted(rows) != sorted(every)[: len(rows)]
    again = taken(chain, "b1", None)[1]
    assert [int(r) for part in again.train.ordered(64) for r in part["rows"]] == rows
    # What people and gates look at is the whole batch's.
    assert some.holdout["text"].tolist() == whole.holdout["text"].tolist()
    found = train(chain.stream, some, model, None)
    assert found.fitted.steps <= 5
    assert found.state.spec.absorbed[-1].rows == len(rows)


def test_a_batch_is_read_once_whether_or_not_it_was_tokenised_before(
    home: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training rows, samples and answers come from one pass; a batch can have ten million rows."""
    read: list[str] = []

    def counted(*args: Any) -> Any:
        read.append("once")
        return read_rows(*args)

    monkeypatch.setattr(intake_module, "read_rows", counted)
    chain = bounded(home, 3)
    first = taken(chain, "b2", None)[1]
    second = taken(chain, "b2", None)[1]
    assert read == ["once"] * 2
    assert first.holdout.equals(second.holdout)
    assert (first.known == second.known).all()


def rehearsing(chain: Chain, rows: int | str) -> Chain:
    data = chain.stream.data.model_copy(update={"replay_rows": rows})
    return chain.changed(data=data)


def test_nothing_is_rehearsed_unless_the_stream_asks_for_it(home: Chain) -> None:
    _, one = taken(home, "b1", None)
    assert one.replay.rows.empty
    _, two = taken(home, "b2", None, one.replay)
    assert len(two.train) == len(taken(home, "b2", None)[1].train)


def test_rehearsed_rows_are_earlier_batches_training_rows_and_never_held_out_ones(
    home: Chain, tmp_path: Path
) -> None:
    """They join the next batch's training rows, with their own labels, as the files carry them."""
    chain = rehearsing(home, 5)
    _, one = taken(chain, "b1", None)
    one.replay.save(tmp_path)
    carried = Replay.load(tmp_path)
    assert carried.rows.to_dict("list") == one.replay.rows.to_dict("list")
    assert set(side_of(carried.rows["text"].tolist())) == {"train"}
    _, two = taken(chain, "b2", None, carried)
    _, plain = taken(chain, "b2", None)
    assert len(two.train) == len(plain.train) + 5
    extra = [
        int(label)
        for part in two.train.ordered(64)
        for label, row in zip(part["labels"], part["rows"], strict=True)
        if row == -1
    ]
    assert sorted(extra) == sorted((carried.rows["label"] == "good").astype(int))
    assert two.replay.rows["_batch"].value_counts().to_dict() == {"b1": 5, "b2": 5}


def test_rehearsed_rows_change_the_training_and_not_the_prior(
    home: Chain, first: AdapterState
) -> None:
    chain = rehearsing(home, 20)
    replay = taken(chain, "b1", None)[1].replay
    model, intake = taken(chain, "b2", first, replay)
    with_rows, without = train(chain.stream, intake, model, first), trained(home, "b2", first)
    assert same(with_rows.prior, without.prior)
    assert not same(with_rows.state.posterior, without.state.posterior)


def test_a_full_replay_learns_every_row_so_far_from_the_base_prior(home: Chain) -> None:
    """Each row once, whatever the limits of the memory; the round begins as a first one does."""
    chain = rehearsing(home, "all").with_learning(forgetting=0.0)
    data = chain.stream.data.model_copy(update={"memory_batches": 1})
    chain = chain.changed(data=data)
    _, one = taken(chain, "b1", None)
    _, two = taken(chain, "b2", None, one.replay)
    own = len(taken(home, "b2", None)[1].train)
    assert len(one.replay.rows) == len(one.train)
    assert len(two.train) == len(one.train) + own
    assert two.own_rows == own
    assert len(two.replay.rows) == len(two.train)
    assert not two.replay.rows["text"].duplicated().any()
    first = trained(chain, "b1").state
    model, intake = taken(chain, "b2", first, one.replay)
    again = train(chain.stream, intake, model, first)
    assert same(again.prior, first.prior)


def test_rows_to_rehearse_that_cannot_be_read_are_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="rehearses cannot be read"):
        Replay.load(tmp_path)

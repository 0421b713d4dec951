from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bhpeft.data.batch import Batch, open_batch
from bhpeft.errors import BatchAlreadyLearned
from bhpeft.learning.predict import Predictor
from bhpeft.posterior import MeanField
from bhpeft.registry import Registry
from bhpeft.rounds import Outcome, learn
from tests.rounds.conftest import ALWAYS, NEVER, Chain, Steps, begin


@dataclass(frozen=True)
class Story:
    """Four rounds of one stream: promoted, promoted, refused, promoted."""

    chain: Chain
    batches: list[Batch]
    outcomes: list[Outcome]
    steps: list[Steps]
    progress: list[tuple[str, int, int]]
    order: list[str]


class Told(Steps):
    """A runner and a lock that write down in which order things happen."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    def __call__(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.order.append(step.__name__)
        return super().__call__(step, *args, **kwargs)

    @contextmanager
    def lock(self) -> Iterator[None]:
        self.order.append("locked")
        yield
        self.order.append("free")


@pytest.fixture(scope="module")
def story(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Read it, do not continue it."""
    chain = begin(registry, tmp_path_factory.mktemp("story"), "story")
    batches = [chain.deliver(f"b{number}", day=number) for number in range(1, 5)]
    told = Told()
    progress: list[tuple[str, int, int]] = []
    outcomes = [
        learn(
            chain.stream, batches[0], registry, run=told, lock=told.lock, by="a test",
            progress=lambda *at: progress.append(at),
        )
    ]  # fmt: skip
    steps = [told, Steps(figures=True), Steps(), Steps()]
    gates = [ALWAYS, NEVER, ALWAYS]
    for asked, batch, run in zip(gates, batches[1:], steps[1:], strict=True):
        outcomes.append(chain.with_gates(asked).learn(batch, run))
    return Story(chain, batches, outcomes, steps, progress, told.order)


def same(left: MeanField, right: MeanField) -> bool:
    return torch.equal(left.mean, right.mean) and torch.equal(left.rho, right.rho)


def test_decisions_and_versions_follow_the_gates(story: Story) -> None:
    found = [(o.decision, o.version, o.prior_version) for o in story.outcomes]
    assert found == [
        ("promoted", 1, None),
        ("promoted", 2, 1),
        ("refused", 3, 2),
        ("promoted", 4, 2),
    ]


def test_a_rounds_prior_is_the_champions_posterior_bit_by_bit(story: Story) -> None:
    """With ρ = 1 nothing is forgotten: what was posterior is prior, and where q starts."""
    chain = story.chain
    trained = story.steps[1].results["train_candidate"]
    assert same(trained.prior, chain.state(1).posterior)
    assert not same(trained.state.posterior, trained.prior)
    assert same(trained.state.posterior, chain.state(2).posterior)
    assert chain.registry.version("story", 2).parent == 1


def test_a_refused_candidate_never_becomes_a_prior(story: Story) -> None:
    """It stays registered and reviewable, outside the chain."""
    chain = story.chain
    assert same(story.steps[3].results["train_candidate"].prior, chain.state(2).posterior)
    assert [version.number for version in chain.registry.lineage("story", 4)] == [4, 2, 1]
    refused = chain.registry.version("story", 3)
    assert refused.decision == "refused"
    assert story.batches[2].digest in chain.registry.refused("story")
    assert story.batches[2].digest not in chain.registry.learned("story", 4)
    assert [a.batch_id for a in chain.state(4).spec.absorbed] == ["b1", "b2", "b4"]


def test_after_four_rounds_nothing_is_pending(story: Story) -> None:
    assert story.chain.waiting == []


def test_the_champion_moves_only_when_a_candidate_is_promoted(story: Story) -> None:
    """The append-only log tells it in order."""
    champion = story.chain.champion
    assert champion is not None
    assert champion.number == 4
    titles = [move.title for move in story.chain.registry.history("story")]
    assert titles == ["promote none → v1", "promote v1 → v2", "refuse v3", "promote v2 → v4"]
    assert {move.who for move in story.chain.registry.history("story")} == {"a test"}


def test_an_outcome_says_why_in_one_line(story: Story) -> None:
    promoted, refused = story.outcomes[1], story.outcomes[2]
    assert promoted.reason == "1 of 1 gates passed, none failed"
    assert refused.reason.startswith("nll: NLL ")
    assert "allowed -100" in refused.reason
    assert all("\n" not in outcome.reason for outcome in story.outcomes)
    failed = [v["gate"] for v in refused.verdicts if v["outcome"] == "fail"]
    assert failed == ["nll"]


def test_every_gate_speaks_even_when_one_has_failed(story: Story) -> None:
    """None is short-circuited: a reviewer sees everything that is wrong."""
    from bhpeft.judgement.gates import GATES, HEADLINES

    others = HEADLINES - {"accuracy"}  # the headlines of other tasks have nothing to say here
    expected = [gate for gate in GATES if gate not in others]
    assert [verdict["gate"] for verdict in story.outcomes[2].verdicts] == expected


def test_the_version_carries_what_a_reviewer_and_the_next_round_need(story: Story) -> None:
    tags = story.chain.registry.version("story", 2).tags
    state = story.chain.state(2)
    assert tags["bhpeft.kl_weight"] == "0.3"
    assert tags["bhpeft.forgetting"] == "1.0"
    assert tags["bhpeft.base_fingerprint"] == state.spec.fingerprint
    assert tags["bhpeft.gauge"] == state.spec.gauge == story.chain.state(1).spec.gauge
    assert tags["bhpeft.contract_version"] == "1.0.0"
    assert json.loads(tags["bhpeft.metrics"]).keys() == story.outcomes[1].metrics.keys()
    assert "posterior" in story.chain.registry.version("story", 3).description


def test_the_rounds_run_shows_parameters_curve_figures_and_reports(story: Story) -> None:
    """One MLflow run a round; this one was written down in full."""
    client = story.chain.registry.connection.client
    run = client.get_run(story.chain.registry.version("story", 2).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["variant"] == "bh_peft"
    assert run.data.params["plan/epochs"] == "1"
    table = story.steps[1].results["prepare"].intake.train
    assert run.data.metrics["training/steps"] == table.steps(8)
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "training/nll")]
    assert steps == sorted(set(steps))
    assert len(steps) > 1
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"report.json", "gates.json", "drift"} <= names
    assert any(name.endswith("figures") or name.endswith(".png") for name in names)
    assert run.inputs.dataset_inputs[0].dataset.name == "b2"


def test_the_outcomes_numbers_are_the_runs(story: Story) -> None:
    outcome = story.outcomes[1]
    assert 0 <= outcome.metrics["holdout/accuracy"] <= 1
    assert outcome.metrics["holdout/nll"] > 0
    assert outcome.metrics["training/epochs"] == 1
    assert outcome.seconds > outcome.metrics["training/seconds"] > 0


def test_drift_is_judged_from_the_second_round_on(story: Story) -> None:
    """The first batch has nothing to differ from."""
    assert story.outcomes[0].drift is None
    trial = story.steps[1].results["examine"]
    assert trial.drift is not None
    assert story.outcomes[1].drift == trial.drift.drifted


def test_the_champions_files_predict(story: Story) -> None:
    chain = story.chain
    frame = Predictor.load(chain.desk / "v4").predict(["a lovely song", "a dreadful song"])
    assert set(frame["label"]) <= {"bad", "good"}
    spec = chain.state(4).spec
    assert spec.draws == 2
    assert 0 < spec.abstain_above < 0.7


def test_rows_kept_from_training_are_never_in_any_rounds_training(story: Story) -> None:
    """What a gate looks at no ancestor was taught, whichever batch it came in."""
    taught: set[str] = set()
    for batch, steps in zip(story.batches, story.steps, strict=True):
        table = steps.results["prepare"].intake.train
        rows = {int(row) for part in table.ordered(64) for row in part["rows"]}
        frame = pd.read_parquet(batch.folder)
        taught |= set(frame["text"].iloc[sorted(rows)])
    kept = set(story.chain.memory(4).rows["text"])
    assert len(taught) > 200
    assert len(kept) > 30
    assert not kept & taught


def test_learning_a_batch_again_is_refused_and_changes_nothing(story: Story) -> None:
    """Twice would count every row twice: σ would shrink to 0.71 of the honest value."""
    chain = story.chain
    book, runs = chain.book, len(chain.runs)
    for batch in (story.batches[0], story.batches[3]):
        with pytest.raises(BatchAlreadyLearned, match=r"learned already.*chain of v4"):
            chain.learn(batch)
    assert chain.book == book
    assert len(chain.runs) == runs


def test_a_batch_delivered_again_under_another_name_is_the_same_batch(story: Story) -> None:
    """A batch is its content. Copied by hand past `land`, it is neither pending nor learned."""
    chain, first = story.chain, story.batches[0]
    copy = first.folder.with_name("b1-again")
    shutil.copytree(first.folder, copy)
    try:
        assert chain.waiting == []
        with pytest.raises(BatchAlreadyLearned):
            chain.learn(open_batch(copy))
    finally:
        shutil.rmtree(copy)


def test_learning_a_refused_batch_again_comes_to_the_same_without_training(chain: Chain) -> None:
    """The decision is remembered with the version; a second attempt makes no second version."""
    chain = chain.with_gates(NEVER)
    batch = chain.deliver("b1")
    first = chain.learn(batch)
    again = chain.learn(batch, Steps(stop="train_candidate"))
    assert (first.decision, first.version) == (again.decision, again.version) == ("refused", 1)
    assert again.metrics == first.metrics
    assert again.reason == first.reason
    assert len(chain.versions) == 1
    assert chain.champion is None


def test_pending_lists_what_waits_oldest_first_and_each_content_once(chain: Chain) -> None:
    """By the time the data happened, not by name or by the order of landing."""
    for name, day in (("c", 3), ("a", 5), ("b", 4)):
        chain.deliver(name, day=day)
    shutil.copytree(chain.stream.landing / chain.stream.name / "c",
                    chain.stream.landing / chain.stream.name / "c-again")  # fmt: skip
    (chain.stream.landing / chain.stream.name / "unfinished").mkdir()
    assert chain.waiting == ["c", "b", "a"]


def test_after_a_rollback_the_next_round_starts_from_the_version_rolled_back_to(
    chain: Chain,
) -> None:
    """Its posterior and its memory; what was learned since is refused, or pending if asked."""
    batches = [chain.deliver(f"b{number}", day=number) for number in range(1, 4)]
    for batch in batches[:2]:
        chain.learn(batch)
    assert set(chain.memory(2).rows["_batch"]) == {"b1", "b2"}
    chain.roll_back(1)
    champion = chain.champion
    assert champion is not None
    assert champion.number == 1
    assert chain.waiting == ["b3"]
    steps = Steps()
    outcome = chain.learn(batches[2], steps)
    assert (outcome.decision, outcome.version, outcome.prior_version) == ("promoted", 3, 1)
    assert same(steps.results["train_candidate"].prior, chain.state(1).posterior)
    assert set(steps.results["fetch_parent"].memory.rows["_batch"]) == {"b1"}
    assert set(chain.memory(3).rows["_batch"]) == {"b1", "b3"}
    assert [a.batch_id for a in chain.state(3).spec.absorbed] == ["b1", "b3"]
    chain.roll_back(1, learned_since="pending")
    assert chain.waiting == ["b3"]


def test_the_progress_of_the_long_stages_is_told(story: Story) -> None:
    """Training and judging are where the time goes; both end at all of it."""
    for stage in ("train", "judge"):
        last = [(done, total) for name, done, total in story.progress if name == stage][-1]
        assert last[0] == last[1] > 0


def test_the_lock_is_held_while_the_alias_moves_and_not_while_training(story: Story) -> None:
    """Others may read and predict meanwhile, and only one process moves the champion."""
    told = " ".join(story.order)
    assert re.fullmatch(
        r"find_parent locked free [^.]*train_candidate .*conclude locked free", told
    )
    assert "locked" not in told.split("find_parent locked free")[1].split("conclude")[0]


def test_batches_paths_are_what_was_landed(story: Story) -> None:
    """A round never writes into the landing folder."""
    for batch in story.batches:
        assert sorted(path.name for path in Path(batch.folder).iterdir()) == [
            "_manifest.json",
            "part-00000.parquet",
        ]

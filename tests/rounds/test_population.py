"""What the streams of a group have in common follows their champions, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch

from bhpeft.errors import RegistryError, StateError, StreamFileError
from bhpeft.learning.population import PopulationState
from bhpeft.learning.state import AdapterState
from bhpeft.registry import Registry, Version, population_name
from bhpeft.rounds import learn, pending
from bhpeft.rounds import population as module
from bhpeft.rounds.population import follow, group_registry, roll_back_population
from bhpeft.rounds.rebuild import replay
from tests import tiny
from tests.rounds.conftest import NEVER, Chain, Steps, begin

Pair = tuple[Chain, Chain]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder: what is tried is who hears of which posterior, not how well it reads."""
    return tiny.saved(tmp_path_factory.mktemp("base"))


@pytest.fixture
def pair(registry: Registry, tmp_path: Path, base: Path, request: pytest.FixtureRequest) -> Pair:
    """Two streams of one group of the test's own."""
    name = f"g-{crc32(request.node.name.encode()):x}"
    found = []
    for letter in "ab":
        (tmp_path / letter).mkdir()
        chain = begin(registry, tmp_path / letter, f"{name}-{letter}")
        small = chain.stream.model.model_copy(update={"base": str(base), "max_length": 16})
        chain = chain.changed(model=small)
        found.append(chain.with_learning(variant="bora", group=name, forgetting=0.5))
    return found[0], found[1]


def group(chain: Chain) -> str:
    return chain.stream.learning.group


def current(chain: Chain) -> Version | None:
    return chain.registry.champion(population_name(group(chain)))


def content(chain: Chain, number: int | None = None) -> PopulationState:
    name = population_name(group(chain))
    found = chain.registry.version(name, number) if number else current(chain)
    assert found is not None
    return PopulationState.load(
        chain.registry.download(found, chain.desk / f"population-{found.number}")
    )


def made_of(chain: Chain, number: int | None = None) -> list[str]:
    """Return the members, their streams by their last letter: « a1 » is version 1 of the first."""
    return [f"{one.stream[-1]}{one.version}" for one in content(chain, number).members]


def promoted(chain: Chain, batch: str, day: int = 0) -> int:
    outcome = chain.learn(chain.deliver(batch, day=day, rows=40))
    assert outcome.decision == "promoted"
    assert outcome.version is not None
    return outcome.version


def same_prior(state: AdapterState, population: PopulationState) -> bool:
    prior = population.known.prior(state.posterior.scale)
    return torch.equal(state.prior.mean, prior.mean) and torch.equal(state.prior.rho, prior.rho)


def test_the_first_promotion_founds_it_and_a_new_stream_starts_exactly_there(
    pair: Pair, tmp_path: Path
) -> None:
    """A registered model of its own, with checksums; and no stream to be scheduled or swept."""
    one, other = pair
    promoted(one, "a1")
    founded = current(one)
    assert founded is not None
    assert (founded.number, founded.parent, founded.aliases) == (1, None, ("champion",))
    assert set(founded.checksums) == {"population.json", "population.safetensors"}
    assert one.state(1).spec.population == {}
    assert population_name(group(one)) not in {e.stream for e in one.registry.streams()}
    promoted(other, "b1")
    state = other.state(1)
    assert same_prior(state, content(one, 1))
    assert state.spec.population["version"] == 1
    assert (made_of(one, 1), made_of(one, 2)) == (["a1"], ["a1", "b1"])
    version = other.registry.version(other.stream.name, 1)
    assert version.tags["bhpeft.population_version"] == "1"
    assert content(one).gauge == version.tags["bhpeft.coordinates"]
    # Forgetting falls back to the newest, whatever a chain's first round began with.
    promoted(one, "a2", day=1)
    state = one.state(2)
    assert state.spec.population["version"] == 2
    assert same_prior(state, content(one, 2))
    assert not same_prior(state, content(one, 1))
    # Following again finds nothing to do.
    found = follow(group(one), one.registry, tmp_path, by="a test")
    assert found is not None
    assert (found.number, made_of(one)) == (3, ["a2", "b1"])


def test_what_was_not_promoted_says_nothing_to_it(pair: Pair) -> None:
    one, _ = pair
    promoted(one, "a1")
    refusing = one.with_gates(NEVER)
    assert refusing.learn(refusing.deliver("a2", day=1, rows=40)).decision == "refused"
    assert made_of(one) == ["a1"]
    assert len(one.registry.versions(population_name(group(one)))) == 1


def test_a_crash_before_it_followed_is_mended_by_the_next_round_of_any_stream(pair: Pair) -> None:
    """The champion had moved and the population had not been told."""
    one, other = pair
    with pytest.raises(RuntimeError, match="died before follow_champions"):
        one.learn(one.deliver("a1", rows=40), Steps(stop="follow_champions"))
    assert one.champion is not None
    assert current(one) is None
    promoted(other, "b1")
    assert other.state(1).spec.population["version"] == 1
    assert made_of(other) == ["a1", "b1"]


def test_a_crash_between_entry_and_alias_is_finished_by_whoever_looks_next(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, _ = pair
    with monkeypatch.context() as patch:
        moves = Registry.promote

        def dies(self: Registry, name: str, *args: Any, **kwargs: Any) -> Any:
            if name.startswith("population~"):
                raise KeyboardInterrupt
            return moves(self, name, *args, **kwargs)

        patch.setattr(Registry, "promote", dies)
        with pytest.raises(KeyboardInterrupt):
            one.learn(one.deliver("a1", rows=40))
    assert current(one) is None
    found = follow(group(one), one.registry, tmp_path, by="a test")
    assert found is not None
    assert (found.number, made_of(one)) == (1, ["a1"])
    assert len(one.registry.versions(population_name(group(one)))) == 1


def test_two_that_follow_at_once_end_as_one_would(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The alias is moved only if the population is still the one that was continued."""
    one, other = pair
    promoted(one, "a1")
    with pytest.raises(RuntimeError):
        other.learn(other.deliver("b1", rows=40), Steps(stop="follow_champions"))
    computes: Callable[..., Any] = module.population_of
    calls: list[int] = []

    def overtaken(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            follow(group(one), one.registry, tmp_path, by="somebody else")
        return computes(*args, **kwargs)

    monkeypatch.setattr(module, "population_of", overtaken)
    found = follow(group(one), one.registry, tmp_path, by="a test")
    assert found is not None
    assert made_of(one) == ["a1", "b1"]
    decisions = {v.number: v.decision for v in one.registry.versions(population_name(group(one)))}
    assert decisions == {1: "promoted", 2: "promoted", 3: "stale"}
    assert found.number == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [({"seed": 9}, "other coordinates than its group"), ({"variant": "bh_peft"}, r"lora\.b")],
)
def test_a_stream_in_other_coordinates_is_refused_before_it_trains(
    pair: Pair, change: dict[str, Any], said: str
) -> None:
    """Its batch stays pending, and the population as it is."""
    one, other = pair
    promoted(one, "a1")
    strange = other.with_learning(**change)
    trains = Steps(stop="train_candidate", problem=AssertionError("it trains"))
    with pytest.raises(StateError, match=said):
        strange.learn(strange.deliver("b1", rows=40), trains)
    assert (strange.waiting, strange.champion, made_of(one)) == (["b1"], None, ["a1"])


def test_rolled_back_it_keeps_out_what_had_entered_until_there_is_something_newer(
    pair: Pair, tmp_path: Path
) -> None:
    one, other = pair
    promoted(one, "a1")
    promoted(other, "b1")
    promoted(one, "a2", day=1)
    assert made_of(one) == ["a2", "b1"]
    name, why = group(one), {"by": "anna", "reason": "a2 was poisoned"}
    move = roll_back_population(name, 2, one.registry, **why)
    assert (move.from_version, move.to_version) == (3, 2)
    follow(name, one.registry, tmp_path, by="a test")
    assert made_of(one) == ["a1", "b1"]
    promoted(other, "b2", day=1)
    assert other.state(2).spec.population["version"] == 2
    assert made_of(one) == ["a1", "b2"]
    promoted(one, "a3", day=2)
    assert made_of(one) == ["a3", "b2"]
    with pytest.raises(RegistryError, match=r"no version 9"):
        roll_back_population(name, 9, one.registry, **why)


def test_a_champion_rolled_back_takes_its_word_with_it(pair: Pair, tmp_path: Path) -> None:
    one, _ = pair
    promoted(one, "a1")
    promoted(one, "a2", day=1)
    assert made_of(one) == ["a2"]
    one.roll_back(1)
    follow(group(one), one.registry, tmp_path, by="a test")
    assert made_of(one) == ["a1"]


def test_a_replay_uses_the_versions_its_batches_were_learned_with(pair: Pair) -> None:
    """Bit for bit, though the population has moved on: twice without b2 is twice the same."""
    one, other = pair
    for day, batch in enumerate(("b1", "b2", "b3")):
        promoted(one, batch, day)

    def without_b2(start: int) -> AdapterState:
        outcomes = replay(
            one.stream, one.registry, without=["b2"], start=start, by="anna", reason="wrong labels",
            learn=lambda *a, **k: learn(*a, run=Steps(), **k),
        )  # fmt: skip
        return one.state(outcomes[-1].version or 0)

    first = without_b2(1)
    assert first.spec.population["version"] == one.state(3).spec.population["version"] == 2
    promoted(other, "c1")
    one.roll_back(1, learned_since="pending")
    b3 = next(batch for batch in pending(one.stream, one.registry) if batch.batch_id == "b3")
    again = one.state(one.learn(b3).version or 0)
    assert again.spec.population == first.spec.population
    assert torch.equal(again.posterior.mean, first.posterior.mean)
    assert torch.equal(again.posterior.rho, first.posterior.rho)


def test_a_group_nobody_names_is_said_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(StreamFileError, match="No stream belongs to a group 'nobody'"):
        group_registry("nobody", tmp_path)

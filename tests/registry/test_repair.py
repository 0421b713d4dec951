from __future__ import annotations

from contextlib import nullcontext

import pytest

from bhpeft.errors import RegistryError
from bhpeft.registry import Registry
from bhpeft.registry.connection import Connection
from bhpeft.registry.move_log import MoveLog
from bhpeft.registry.promotion import Promotion
from bhpeft.registry.versions import Versions

from .conftest import Learn


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


class DyingVersions(Versions):
    """The real aliases, until the process dies before the n-th move of one."""

    def __init__(self, connection: Connection, moves: int):
        super().__init__(connection)
        self.left = moves

    def point(self, stream: str, alias: str, number: int | None) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        super().point(stream, alias, number)


class DyingLog(MoveLog):
    """The real log, until the process dies before an entry is closed."""

    def close(self, run_id: str) -> None:
        raise Killed


def dying(registry: Registry, step: str) -> Promotion:
    """Return a promotion that dies before the given step."""
    connection = registry.connection
    if step == "close":
        return Promotion(Versions(connection), DyingLog(connection))
    moves = {"previous": 0, "champion": 1}[step]
    return Promotion(DyingVersions(connection, moves), MoveLog(connection))


STEPS = ("previous", "champion", "close")


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_that_died_anywhere_is_finished(
    registry: Registry, stream: str, learn: Learn, step: str
) -> None:
    learn("b1", None)
    learn("b2", 1, move=False)
    with pytest.raises(Killed):
        dying(registry, step).promote(
            stream,
            2,
            expected_parent=1,
            by="round",
            reason="gates",
            lock=nullcontext,
            despite_refusal=False,
        )
    registry.repair(stream)
    assert registry.version(stream, 2).aliases == ("champion",)
    assert registry.version(stream, 1).aliases == ("previous",)
    assert [m.title for m in registry.history(stream)] == ["promote none → v1", "promote v1 → v2"]
    assert registry.repair(stream) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_rollback_that_died_anywhere_is_finished_with_its_refusals(
    registry: Registry, stream: str, learn: Learn, step: str
) -> None:
    learn("b1", None)
    learn("b2", 1)
    with pytest.raises(Killed):
        dying(registry, step).roll_back(
            stream, 1, by="anna", reason="why", refuse="all", lock=nullcontext
        )
    registry.repair(stream)
    assert registry.version(stream, 1).aliases == ("champion",)
    assert registry.version(stream, 2).aliases == ("previous",)
    assert registry.refused(stream) == {"sha-b2"}
    assert registry.repair(stream) == []


def test_a_round_that_died_between_registering_and_promoting_is_promoted(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1, move=False)
    (move,) = registry.repair(stream)
    assert (move.title, move.who) == ("promote v1 → v2", "bhpeft repair")
    assert registry.version(stream, 2).aliases == ("champion",)


def test_a_promotion_forgotten_before_the_champion_moved_is_stale(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """Even if the champion has come back to its parent since."""
    learn("b1", None)
    learn("b2", 1, move=False)
    late = learn("b3", 1)
    registry.roll_back(stream, 1, by="anna", reason="why", learned_since="pending")
    assert registry.repair(stream) == []
    assert registry.version(stream, 2).decision == "stale"
    champion = registry.champion(stream)
    assert champion is not None
    assert champion.number == 1
    assert late.decision == "promoted"


def test_a_champion_alias_that_vanished_is_put_back(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """Without it the next round would start from the base prior and learn everything twice."""
    learn("b1", None)
    Versions(registry.connection).point(stream, "champion", None)
    (move,) = registry.repair(stream)
    assert move.title == "repair none → v1"
    assert registry.version(stream, 1).aliases == ("champion",)


def test_a_champion_that_was_deleted_needs_a_person(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1)
    registry.connection.client.delete_model_version(stream, "2")
    with pytest.raises(RegistryError, match="v2, was deleted"):
        registry.repair(stream)
    registry.roll_back(stream, 1, by="anna", reason="v2 was deleted")
    assert registry.repair(stream) == []


def test_a_champion_moved_by_hand_is_adopted_and_logged(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1)
    Versions(registry.connection).point(stream, "champion", 1)
    (move,) = registry.repair(stream)
    assert (move.title, move.why) == ("repair v2 → v1", "the alias was moved by hand; adopted")
    assert registry.history(stream)[-1] == move
    assert registry.repair(stream) == []


def test_a_refused_version_made_champion_by_hand_is_never_a_prior(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1, "refused")
    registry.refuse(stream, 2, by="round", reason="worse")
    Versions(registry.connection).point(stream, "champion", 2)
    with pytest.raises(RegistryError, match="by hand; found decision 'refused'; expected v1"):
        registry.repair(stream)
    registry.roll_back(stream, 1, by="anna", reason="put back")
    assert registry.repair(stream) == []


def test_a_move_cut_in_half_is_given_up_when_the_champion_is_elsewhere(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1, move=False)
    learn("b3", 1, move=False)
    with pytest.raises(Killed):
        dying(registry, "previous").promote(
            stream,
            2,
            expected_parent=1,
            by="round",
            reason="gates",
            lock=nullcontext,
            despite_refusal=False,
        )
    Versions(registry.connection).point(stream, "champion", 3)
    registry.repair(stream)
    champion = registry.champion(stream)
    assert champion is not None
    assert champion.number == 3
    assert [m.title for m in registry.history(stream)] == ["promote none → v1", "repair v1 → v3"]


def test_a_rejection_that_died_is_finished_in_the_name_of_whoever_rejected(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """Log first, then the version: an open entry is enough to know what was meant."""
    learn("b1", None)
    learn("b2", 1, "held")
    with pytest.raises(Killed):
        dying(registry, "close").settle(stream, 2, "refuse", by="anna", reason="wrong labels")
    Versions(registry.connection).tag(registry.version(stream, 2), decision="held")

    (move,) = registry.repair(stream)
    assert (move.title, move.who) == ("refuse v2", "anna")
    assert (registry.version(stream, 2).decision, registry.held(stream)) == ("refused", [])
    assert registry.refused(stream) == {"sha-b2"}
    assert registry.repair(stream) == []


def test_the_runs_of_dead_rounds_are_closed(registry: Registry, stream: str, learn: Learn) -> None:
    learn("b1", None)
    client = registry.connection.client
    experiment = registry.connection.experiment(f"bhpeft/{stream}")
    dead = client.create_run(experiment, run_name="b2").info.run_id
    registry.repair(stream)
    found = client.get_run(dead)
    assert found.info.status == "KILLED"
    assert "died" in found.data.tags["bhpeft.error"]


def test_a_deleted_promotion_log_is_named_with_the_way_back(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    experiment = registry.connection.experiment(f"bhpeft/{stream}/moves")
    registry.connection.client.delete_experiment(experiment)
    with pytest.raises(RegistryError, match="mlflow experiments restore"):
        Registry(registry.connection.uri).history(stream)

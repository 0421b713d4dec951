from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bhpeft.errors import RegistryError, UnknownVersion
from bhpeft.registry import Move, Version, lineage
from bhpeft.registry.records import digests_as_tags, digests_from_tags, population_name

START = datetime(2026, 1, 1, tzinfo=UTC)


def version(number: int, parent: int | None, decision: str = "promoted") -> Version:
    batch = f"b{number}"
    return Version("s", number, parent, (batch,), (batch,), decision, "run", at(number))


def move(kind: str, hour: int, to: int, refused: str = "", released: str = "") -> Move:
    return Move(
        kind, "s", at(hour), "me", None, to, "why", tuple(refused.split()), tuple(released.split())
    )


def at(hour: int) -> datetime:
    return START + timedelta(hours=hour)


# 1 ← 2 ← 3 (refused), and after a rollback to 1: 1 ← 4
TREE = {1: version(1, None), 2: version(2, 1), 3: version(3, 2, "refused"), 4: version(4, 1)}


def test_a_chain_leads_from_the_version_to_the_root() -> None:
    """Only ancestors count: 4 was learned after 2 and 3 but continues 1."""
    assert [v.number for v in lineage.chain(TREE, "s", 4)] == [4, 1]
    assert lineage.learned(TREE, "s", 4) == {"b4", "b1"}
    assert lineage.learned(TREE, "s", None) == frozenset()


def test_an_unknown_version_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownVersion, match="v1, v2, v3, v4"):
        lineage.find(TREE, "s", 9)


def test_what_shows_the_versions_of_a_population_is_a_command_of_its_own() -> None:
    with pytest.raises(UnknownVersion, match="`bhpeft population history shops`"):
        lineage.find({}, population_name("shops"), 3)
    with pytest.raises(UnknownVersion, match="`bhpeft history shops`"):
        lineage.find({}, "shops", 3)


def test_a_deleted_ancestor_is_an_error_and_not_a_shorter_chain() -> None:
    """A chain that silently lost a version would learn its batches twice."""
    with pytest.raises(RegistryError, match="no v1, the parent of v2"):
        lineage.learned({2: TREE[2]}, "s", 2)


def test_a_version_that_is_its_own_ancestor_is_an_error() -> None:
    with pytest.raises(RegistryError, match="broken"):
        lineage.chain({1: version(1, 2), 2: version(2, 1)}, "s", 2)


def test_a_release_counts_though_the_servers_clock_is_ahead_of_everybody_elses() -> None:
    """The log's order decides: v3 was created at 3 o'clock there, refused and released before."""
    refused, released = move("refuse", 1, 3, refused="b3"), move("release", 2, 3, released="b3")
    assert lineage.refused(TREE.values(), [refused]) == {"b3"}
    assert lineage.refused(TREE.values(), [refused, released]) == set()


def test_refused_batches_are_those_of_refused_versions_and_of_rollbacks() -> None:
    rollback = move("roll_back", 9, 1, refused="b2")
    assert lineage.refused(TREE.values(), [rollback]) == {"b3", "b2"}


def test_a_release_holds_until_the_batch_is_refused_again() -> None:
    """Later facts outweigh earlier ones, whether they are versions or moves."""
    released = move("release", 9, 0, released="b3 b2")
    assert lineage.refused(TREE.values(), [move("refuse", 8, 2, refused="b2"), released]) == set()
    again = {**TREE, 12: Version("s", 12, 2, ("b3",), ("b3",), "refused", "run", at(12))}
    assert lineage.refused(again.values(), [released]) == {"b3"}


def test_a_held_candidate_waits_only_while_its_parent_is_champion() -> None:
    tree = {1: version(1, None), 2: version(2, 1, "held")}
    assert [v.number for v in lineage.held(tree.values(), 1)] == [2]
    assert lineage.held(tree.values(), 7) == []


def test_an_attempt_is_found_by_parent_and_batch_unless_it_has_been_champion() -> None:
    found = lineage.attempt(TREE, [], 1, "b2")
    assert found is not None
    assert found.number == 2
    assert lineage.attempt(TREE, [], 2, "b2") is None
    assert lineage.attempt(TREE, [move("promote", 5, 2)], 1, "b2") is None
    assert lineage.attempt(TREE, [move("release", 9, 0, released="b3")], 2, "b3") is None


@pytest.mark.parametrize("count", [0, 1, 100, 101, 250])
def test_any_number_of_fingerprints_survives_the_length_limit_of_tags(count: int) -> None:
    """MLflow cuts a run's tag at 8000 characters without a word."""
    digests = tuple(f"{number:064x}" for number in range(count))
    tags = digests_as_tags("refused_batches", digests)
    assert max((len(value) for value in tags.values()), default=0) < 8000
    assert digests_from_tags("refused_batches", tags) == digests

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bhpeft.errors import RegistryError, StaleParent, UnknownVersion
from bhpeft.registry import Registry

from .conftest import Learn


def numbers(registry: Registry, stream: str) -> tuple[int | None, int | None, int | None]:
    """Return what champion, previous and candidate point at."""
    found = (registry.champion(stream), registry.previous(stream), registry.candidate(stream))
    champion, previous, candidate = (None if v is None else v.number for v in found)
    return champion, previous, candidate


def test_a_stream_nobody_knows_has_no_champion_and_an_empty_record(
    registry: Registry, stream: str
) -> None:
    assert numbers(registry, stream) == (None, None, None)
    assert registry.versions(stream) == []
    assert registry.history(stream) == []
    assert registry.refused(stream) == frozenset()
    assert registry.repair(stream) == []


def test_promotions_move_champion_and_previous_and_are_logged_in_order(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    assert numbers(registry, stream) == (1, None, None)
    learn("b2", 1)
    assert numbers(registry, stream) == (2, 1, None)
    assert registry.learned(stream, 2) == {"sha-b1", "sha-b2"}
    moves = registry.history(stream)
    assert [m.title for m in moves] == ["promote none → v1", "promote v1 → v2"]
    assert [(m.who, m.why) for m in moves] == [("round", "all gates pass")] * 2
    assert moves[0].when < moves[1].when


def test_a_stale_parent_is_refused_and_the_champion_stays(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """Promotion is a compare-and-swap: v3 continues v1, but v2 is champion by now."""
    learn("b1", None)
    learn("b2", 1)
    late = learn("b3", 1, move=False)
    with pytest.raises(StaleParent, match="found champion v2; expected v1"):
        registry.promote(stream, late.number, expected_parent=1, by="round", reason="gates")
    assert numbers(registry, stream) == (2, 1, 3)
    assert registry.version(stream, 3).decision == "stale"
    assert "sha-b3" not in registry.refused(stream)


def test_of_two_writers_under_a_lock_one_wins(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    rivals = [learn(batch, 1, move=False).number for batch in ("b2", "b3")]
    lock, start, lost = threading.Lock(), threading.Barrier(2), []

    def race(number: int) -> None:
        own = Registry(registry.connection.uri)
        start.wait()
        try:
            own.promote(stream, number, expected_parent=1, by="race", reason="r", lock=lambda: lock)
        except StaleParent:
            lost.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    champion = registry.champion(stream)
    assert champion is not None
    assert [champion.number, *lost] in (rivals, rivals[::-1])
    assert [m.to_version for m in registry.history(stream)] == [1, champion.number]


def test_promoting_again_changes_nothing(registry: Registry, stream: str, learn: Learn) -> None:
    learn("b1", None)
    learn("b2", 1)
    before = registry.history(stream)
    again = registry.promote(stream, 2, expected_parent=1, by="retry", reason="again")
    assert again == before[-1]
    assert registry.history(stream) == before
    assert numbers(registry, stream) == (2, 1, None)


def test_a_refused_candidate_is_never_champion_unless_a_person_overrules_the_gates(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    bad = learn("b2", 1, "refused")
    registry.refuse(stream, bad.number, by="round", reason="accuracy fell")
    with pytest.raises(RegistryError, match="was refused"):
        registry.promote(stream, bad.number, expected_parent=1, by="me", reason="please")
    assert numbers(registry, stream) == (1, None, 2)
    assert registry.refused(stream) == {"sha-b2"}
    registry.promote(
        stream, 2, expected_parent=1, by="me", reason="labels were right", despite_refusal=True
    )
    assert numbers(registry, stream) == (2, 1, None)
    assert registry.version(stream, 2).tags["bhpeft.decision_before"] == "refused"


def test_a_held_candidate_waits_and_a_person_promotes_or_refuses_it(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    for batch in ("b2", "b3"):
        held = learn(batch, 1, "held")
        registry.hold(stream, held.number, by="round", reason="coverage changed")
    assert [v.number for v in registry.held(stream)] == [2, 3]
    registry.refuse(stream, 2, by="anna", reason="looked at the rows")
    assert registry.refused(stream) == {"sha-b2"}
    registry.promote(stream, 3, expected_parent=1, by="anna", reason="fine")
    assert numbers(registry, stream) == (3, 1, None)
    assert registry.held(stream) == []


def test_a_rollback_refuses_what_was_learned_since_and_the_chain_goes_on_from_there(
    registry: Registry, stream: str, learn: Learn
) -> None:
    for batch, parent in (("b1", None), ("b2", 1), ("b3", 2)):
        learn(batch, parent)
    move = registry.roll_back(stream, 1, by="anna", reason="complaints")
    assert (move.from_version, move.to_version) == (3, 1)
    assert numbers(registry, stream) == (1, 3, None)
    assert registry.learned(stream, 1) == {"sha-b1"}
    assert registry.refused(stream) == {"sha-b2", "sha-b3"}
    learn("b4", 1)
    assert [v.number for v in registry.lineage(stream, 4)] == [4, 1]


def test_a_rollback_can_leave_the_batches_pending(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """Neither learned by the champion nor refused: they are to be learned again."""
    learn("b1", None)
    learn("b2", 1)
    registry.roll_back(stream, 1, by="anna", reason="wrong λ", learned_since="pending")
    assert registry.learned(stream, 1) == {"sha-b1"}
    assert registry.refused(stream) == frozenset()
    assert registry.attempt(stream, 1, "sha-b2") is None


def test_rolling_forward_again_takes_the_refusals_back(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1)
    registry.roll_back(stream, 1, by="anna", reason="complaints")
    registry.roll_back(stream, 2, by="anna", reason="they were wrong")
    assert registry.refused(stream) == frozenset()
    assert registry.learned(stream, 2) == {"sha-b1", "sha-b2"}


def test_refused_batches_can_be_released(registry: Registry, stream: str, learn: Learn) -> None:
    learn("b1", None)
    learn("b2", 1, "refused")
    registry.release(stream, ["sha-b2"], by="anna", reason="the gate was set wrong")
    assert registry.refused(stream) == frozenset()
    assert registry.attempt(stream, 1, "sha-b2") is None


def test_a_rollback_needs_a_reason_and_a_version_that_has_been_champion(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    learn("b2", 1)
    learn("b3", 2, "refused")
    with pytest.raises(RegistryError, match="needs a reason"):
        registry.roll_back(stream, 1, by="anna", reason="  ")
    with pytest.raises(RegistryError, match="never been champion; found decision 'refused'"):
        registry.roll_back(stream, 3, by="anna", reason="why")
    with pytest.raises(RegistryError, match="champion already"):
        registry.roll_back(stream, 2, by="anna", reason="why")
    with pytest.raises(UnknownVersion, match="v1, v2, v3"):
        registry.roll_back(stream, 8, by="anna", reason="why")
    assert numbers(registry, stream) == (2, 1, 3)


def test_rolling_back_again_after_it_happened_changes_nothing(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """A flow that is retried must not fail on its own success."""
    learn("b1", None)
    learn("b2", 1)
    first = registry.roll_back(stream, 1, by="anna", reason="why")
    assert registry.roll_back(stream, 1, by="anna", reason="why") == first
    assert len(registry.history(stream)) == 3


def test_an_interrupted_round_is_found_again_by_its_parent_and_batch(
    registry: Registry, stream: str, learn: Learn
) -> None:
    learn("b1", None)
    made = learn("b2", 1, move=False)
    assert registry.attempt(stream, 1, "sha-b2") == made
    assert registry.attempt(stream, 1, "sha-b3") is None


def test_streams_are_listed_with_their_aliases(
    registry: Registry, stream: str, learn: Learn, state: Path
) -> None:
    learn("b1", None)
    learn("b2", 1, "refused")
    (entry,) = [e for e in registry.streams() if e.stream == stream]
    assert (entry.champion, entry.previous, entry.candidate) == (1, None, 2)

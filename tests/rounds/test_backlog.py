from __future__ import annotations

import pytest

from bhpeft.errors import Diverged
from bhpeft.rounds import gathered, pending
from bhpeft.rounds.release import release
from tests.rounds.conftest import Chain, Steps


@pytest.fixture
def merging(chain: Chain) -> Chain:
    data = chain.stream.data.model_copy(update={"backlog": "merge", "merge_rows": 400})
    chain = chain.changed(data=data)
    for day in (1, 2, 3, 4):
        chain.deliver(f"b{day}", day=day)
    return chain


def next_of(chain: Chain) -> list[str]:
    batch = gathered(chain.stream, chain.registry, pending(chain.stream, chain.registry))
    return [one.batch_id for one in batch.each]


def test_as_many_as_fit_are_learned_at_once_oldest_first(merging: Chain) -> None:
    """Each batch has 120 rows; the fourth would be more than 400."""
    assert next_of(merging) == ["b1", "b2", "b3"]
    few = merging.changed(data=merging.stream.data.model_copy(update={"merge_rows": 1}))
    assert next_of(few) == ["b1"], "one is always learned, however large"
    each = merging.changed(data=merging.stream.data.model_copy(update={"backlog": "each"}))
    assert next_of(each) == ["b1"]


def test_each_counts_once_and_a_malformed_one_takes_no_other_down(merging: Chain) -> None:
    part = pending(merging.stream, merging.registry)[1].paths[0]
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    batch = gathered(merging.stream, merging.registry, pending(merging.stream, merging.registry))
    outcome = merging.learn(batch)
    assert (outcome.decision, outcome.batch_id) == ("promoted", "b1")
    [version] = merging.versions
    assert version.batch_ids == ("b1", "b3")
    assert version.batches == (batch.each[0].digest, batch.each[2].digest)
    absorbed = merging.state(1).spec.absorbed
    assert [one.batch_id for one in absorbed] == ["b1", "b3"]
    assert sum(one.rows for one in absorbed) == int(version.tags["bhpeft.rows"])
    assert min(one.rows for one in absorbed) > 60
    assert merging.waiting == ["b4"]
    [record] = merging.stream.quarantine.iterdir()
    assert record.name.startswith("b2-")
    merging.learn(pending(merging.stream, merging.registry)[0])
    merging.roll_back(1, learned_since="pending")
    assert merging.waiting == ["b4"]


def test_a_crash_after_a_merged_version_was_made_takes_it_up_and_learns_nothing_twice(
    merging: Chain,
) -> None:
    batch = gathered(merging.stream, merging.registry, pending(merging.stream, merging.registry))
    with pytest.raises(RuntimeError, match="died before conclude"):
        merging.learn(batch, Steps(stop="conclude"))
    merging.deliver("b5", day=5)
    outcome = merging.learn(batch, Steps(stop="train_candidate"))
    assert (outcome.decision, outcome.version) == ("promoted", 1)
    assert merging.waiting == ["b4", "b5"]


def test_after_a_failure_the_oldest_is_tried_alone_and_is_the_one_that_is_parked(
    merging: Chain,
) -> None:
    """The others are not held up by it for longer than its three attempts."""
    batch = gathered(merging.stream, merging.registry, pending(merging.stream, merging.registry))
    with pytest.raises(Diverged):
        merging.learn(batch, Steps(stop="train_candidate", problem=Diverged("σ is not finite")))
    assert next_of(merging) == ["b1"]
    alone = pending(merging.stream, merging.registry)[0]
    for _ in range(2):
        with pytest.raises(Diverged):
            merging.learn(alone, Steps(stop="train_candidate", problem=Diverged("again")))
    assert merging.waiting == ["b2", "b3", "b4"]
    assert next_of(merging) == ["b2", "b3", "b4"]
    release(merging.stream, "b1", merging.registry, by="a test", reason="mended")
    assert next_of(merging) == ["b1", "b2", "b3"]

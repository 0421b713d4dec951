"""A chain rebuilt without a bad batch is the chain that never learned it."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch

from bhpeft.errors import BatchError, BatchIncomplete, UnknownVersion
from bhpeft.learning.state import AdapterState
from bhpeft.rounds import learn
from bhpeft.rounds.rebuild import plan_replay, replay
from tests.rounds.conftest import Chain, Steps, begin

OPTIONS: dict[str, Any] = {"by": "anna", "reason": "b2 had wrong labels"}


def quick(*args: Any, **kwargs: Any) -> Any:
    """Run a round without its figures."""
    return learn(*args, run=Steps(), **kwargs)


def told(chain: Chain, *names: str) -> Chain:
    """Learn batches, two of whose rows each are rehearsed, in the order of their names."""
    chain = chain.changed(data=chain.stream.data.model_copy(update={"replay_rows": 2}))
    for name in names:
        chain.learn(chain.deliver(name, day=int(name[1])))
    return chain


def same_state(one: AdapterState, other: AdapterState) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in (
            (one.posterior.mean, other.posterior.mean),
            (one.posterior.rho, other.posterior.rho),
            *((one.point[name], other.point[name]) for name in one.point),
            *((one.precision[name], other.precision[name]) for name in one.precision),
        )
    )


def test_a_replay_equals_never_having_learned_the_bad_batch_even_if_killed(
    chain: Chain, tmp_path: Path
) -> None:
    """Posterior, point weights, their precision and the frozen rows, bit for bit.

    The replay dies in its second round and is run again: it goes on with what is left, and its
    champion was at every moment a version that passed its gates.
    """
    chain = told(chain, "b1", "b2", "b3", "b4")
    rounds: list[str] = []

    def dies(stream: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        rounds.append(batch.batch_id)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        return quick(stream, batch, *args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        replay(chain.stream, chain.registry, without=["b2"], learn=dies, **OPTIONS)
    assert chain.champion is not None
    assert (chain.champion.number, chain.champion.parent) == (5, 1)
    assert chain.waiting == ["b4"]

    chain.deliver("b0", day=0)  # what lands meanwhile waits until the replay is through
    outcomes = replay(chain.stream, chain.registry, without=["b2"], learn=dies, **OPTIONS)

    assert rounds == ["b3", "b4", "b4"]
    assert [(o.batch_id, o.decision) for o in outcomes] == [("b4", "promoted")]
    assert chain.waiting == ["b0"]
    (tmp_path / "other").mkdir()
    never = told(begin(chain.registry, tmp_path / "other", f"{chain.stream.name}-x"),
                 "b1", "b3", "b4")  # fmt: skip
    assert same_state(chain.state(6), never.state(3))
    assert not same_state(chain.state(6), chain.state(4))
    assert [a.batch_id for a in chain.state(6).spec.absorbed] == ["b1", "b3", "b4"]
    assert chain.memory(6).rows.equals(never.memory(3).rows)
    moves = [(m.kind, m.to_version) for m in chain.registry.history(chain.stream.name)]
    assert moves[4:] == [("roll_back", 1), ("promote", 5), ("promote", 6)]


def test_a_replay_is_planned_before_anything_moves(chain: Chain) -> None:
    """Where it starts, what is learned again; every mistake is named and moves nothing."""
    chain = told(chain, "b1", "b2", "b3")
    book = chain.book

    def planned(*without: str, start: int | None = None) -> tuple[int, list[str]]:
        plan = plan_replay(chain.stream, chain.registry, without, start)
        names = {v.batches[0]: v.batch_ids[0] for v in chain.versions}
        return plan.start, [names[digest] for digest in plan.again]

    assert planned("b2") == planned(start=1) == (1, ["b3"])
    assert planned("b3") == (2, [])
    assert planned("b3", start=1) == (1, ["b2"])
    assert planned(chain.versions[1].batches[0][:8]) == (1, ["b3"])
    with pytest.raises(BatchError, match=r"no single batch 'b9'; expected one of b1, b2, b3"):
        planned("b9")
    with pytest.raises(UnknownVersion, match="cannot be replayed from its beginning"):
        planned("b1")
    with pytest.raises(UnknownVersion, match=r"from 2; found b2 learned by v2; .* before: v1"):
        planned("b2", start=2)
    with pytest.raises(UnknownVersion, match=re.escape("which batch")):
        planned()
    rmtree(chain.stream.landing / chain.stream.name / "b3")
    with pytest.raises(BatchIncomplete, match=r"no b3; .*Nothing was moved"):
        planned("b2")
    assert chain.book == book

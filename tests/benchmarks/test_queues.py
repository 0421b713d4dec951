"""The simulated queues, on days small enough to be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.queues import POLICIES, Load, daily, summary, waits


def day(*batches: tuple[int, float, float]) -> Load:
    stream, landed, seconds = zip(*batches, strict=True)
    return Load(np.array(stream), np.array(landed), np.array(seconds))


@pytest.mark.parametrize("policy", POLICIES)
def test_one_gpu_does_one_round_at_a_time(policy: str) -> None:
    """Three streams' batches at once: the waits are 0, 10 and 20 in some order."""
    found = waits(day((0, 0, 10), (1, 0, 10), (2, 0, 10)), 1, policy=policy)
    assert sorted(found) == [0, 10, 20]


def test_a_stream_is_a_chain_however_many_gpus_are_idle() -> None:
    """The second batch needs the posterior of the first."""
    assert list(waits(day((0, 0, 10), (0, 0, 10)), 5)) == [0, 10]


def test_a_queue_of_its_own_waits_while_another_gpu_idles() -> None:
    """Streams 0 and 2 are bound to GPU 0."""
    load = day((0, 0, 10), (2, 0, 10))
    assert list(waits(load, 2, shared=False)) == [0, 10]
    assert list(waits(load, 2, shared=True)) == [0, 0]


def test_a_backlog_that_is_drained_keeps_the_others_waiting_and_a_fair_one_does_not() -> None:
    load = day(*[(0, 0, 10)] * 5, (1, 1, 10))
    assert waits(load, 1, policy="drain")[-1] == 49
    assert waits(load, 1, policy="fair")[-1] == 9
    assert waits(load, 1, policy="watch 3")[-1] == 29
    assert waits(load, 1, policy="watch 1")[-1] == 9


@pytest.mark.parametrize("policy", POLICIES)
def test_work_is_conserved_whatever_the_policy(policy: str) -> None:
    """A queue that never idles ends at the same time: no batch is lost or done twice."""
    load = daily(50, 100, window=1.0, heavy=2, heavy_batches=10)
    ends = waits(load, 1, policy=policy) + load.landed + load.seconds
    assert ends.max() == pytest.approx(load.landed[0] + load.seconds.sum())


def test_no_batch_is_no_wait() -> None:
    assert summary(np.zeros(0)) == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}

"""Run each step of a round as a Prefect task; retry those that only wait for a disk or a server.

Training is never retried: it is either right or it must be looked at. Steps are called through a
closure, so Prefect neither walks nor copies the batches and tensors they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from bhpeft.errors import LandingUnreachable, RegistryUnreachable, SchedulerUnreachable

RETRIES = 4
# 2, 4, 8, 16 s, each up to half as long again: a server restart takes about 20 s.
FIRST_DELAY = 2.0
JITTER = 0.5
# An OSError that waiting does not mend.
LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


def step_runner(
    io_steps: Collection[str] = (), *, retries: int = RETRIES, first_delay: float = FIRST_DELAY
) -> Callable[..., Any]:
    """Return `run(step, *args, **kwargs)`, which calls each step as a Prefect task.

    Args:
        io_steps: names of the functions that may be retried.
        retries: how often.
        first_delay: seconds before the first retry; doubles each time.
    """

    def run(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = _name(step)
        patience = _patience(retries, first_delay) if name in io_steps else {}

        @task(name=name.replace("_", " "), cache_policy=NO_CACHE, persist_result=False, **patience)
        def call() -> Any:
            return step(*args, **kwargs)

        return call()

    return run


def worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Say whether a step failed for a reason that may pass by itself."""
    problem = state.result(raise_on_failure=False)
    if isinstance(problem, LASTING):
        return False
    away = (RegistryUnreachable, LandingUnreachable, SchedulerUnreachable)
    return isinstance(problem, (*away, OSError))


def _name(step: Callable[..., Any]) -> str:
    inner = step.func if isinstance(step, partial) else step
    return str(getattr(inner, "__name__", type(inner).__name__))


def _patience(retries: int, first_delay: float) -> dict[str, Any]:
    return {
        "retries": retries,
        "retry_delay_seconds": exponential_backoff(first_delay),
        "retry_jitter_factor": JITTER,
        "retry_condition_fn": worth_a_retry,
    }

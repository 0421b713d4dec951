"""Remove each night what nothing in use needs, of every stream whose file says what to keep."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.schedules import Cron
from prefect.states import Completed, Failed

from bhpeft.errors import BhpeftError
from flows.locks import ensure_limits, promotion_lock
from flows.steps import step_runner

if TYPE_CHECKING:
    from bhpeft.registry import Waste
    from bhpeft.stream import Stream

# After the nightly backup, which must not run beside it (deploy/systemd/bhpeft-backup.timer).
NIGHTLY = "30 4 * * *"
SCHEDULE = Cron(NIGHTLY, timezone="UTC")


@flow(name="gc", flow_run_name="all streams", persist_result=False)
def gc(home: str | None = None, keep: int | None = None, by: str = "bhpeft gc") -> State[Any]:
    """Remove versions and files that nothing in use, and no rollback still offered, needs.

    Args:
        home: the streams' folder on the worker; leave it as it is.
        keep: versions that stay whole beside those in use, of all streams; without a number each
            stream's own (`[retention] keep`), and nothing of those that name none.
        by: who asks.
    """
    from bhpeft.rounds.leftovers import leftovers, sweep
    from bhpeft.stream import all_streams

    run, gone, failed = step_runner({"leftovers"}), {}, {}
    for stream in all_streams(Path(home) if home else None):
        kept = stream.retention.keep if keep is None else keep
        try:
            if kept is not None:
                gone[stream.name] = run(remove_waste, stream, kept, by)
            run(sweep, run(leftovers, stream))
        except (BhpeftError, OSError, TimeoutError) as problem:
            # One stream's trouble is no reason to keep all others' waste.
            get_run_logger().error("%s: %s", stream.name, problem)
            failed[stream.name] = f"{type(problem).__name__}: {problem}"
    return state_of_gc({name: str(waste) for name, waste in gone.items()}, failed)


def remove_waste(stream: Stream, keep: int, by: str) -> Waste:
    """Remove what nothing in use needs of a stream, under the lock of its moves.

    Args:
        stream: the stream.
        keep: versions that stay whole beside those in use.
        by: who asks.
    """
    from bhpeft import registry

    ensure_limits(stream.name)
    lock = partial(promotion_lock, stream.name)
    known = registry.Registry(stream.tracking_uri)
    return registry.remove_waste(known, stream.name, keep, by=by, lock=lock)


def state_of_gc(gone: dict[str, str], failed: dict[str, str]) -> State[Any]:
    """Return the terminal state that tells what went of each stream, and what could not."""
    removed = [f"{name}: {waste}" for name, waste in gone.items() if waste != "nothing"]
    said = "; ".join(removed) or "nothing to remove"
    if failed:
        trouble = "; ".join(f"{name} failed ({why})" for name, why in failed.items())
        return Failed(name="Not all removed", message=f"{trouble}; {said}")
    return Completed(name="Removed" if removed else "Nothing to remove", message=said, data=gone)

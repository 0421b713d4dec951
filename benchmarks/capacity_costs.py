"""Measure what a round costs outside of the GPU: MLflow, Prefect, their database, its own start.

The servers are started for it, on PostgreSQL where it is installed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.startup import cpu_seconds_of

CLIENTS = 8
# How often each is asked alone, and twice as often at once.
MLFLOW_TIMES, FLOW_TIMES = 40, 8
# Rounds whose CPU is counted, after a first one.
ROUNDS = 4
IDLE_SECONDS = 15.0
# What servers still do after they first answered (tables, caches, first turns of their loops) is
# not idling: counted as if it went on for ever, it would be more than a round takes.
SETTLING_SECONDS = 45.0


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        database: what the servers kept their records in.
        calls: MLflow calls of one round, reads and writes.
        call_seconds: of one, alone.
        calls_a_second: most the MLflow server answered, asked by `CLIENTS` at once.
        stored_bytes: what one round leaves in the object store.
        start_cpu: CPU seconds until a round's process is ready.
        flow_seconds: what a flow run with a round's tasks adds.
        flows_a_second: most flow runs the Prefect server recorded, asked by `CLIENTS` at once.
        round_cpu: CPU seconds of the MLflow server for all of a round's calls and files, over what
            it takes when nobody asks.
        flow_cpu: of the Prefect server for a flow run.
        round_database_cpu, flow_database_cpu: and of PostgreSQL; 0 where the database is SQLite,
            which the servers do themselves.
    """

    database: str
    calls: int
    call_seconds: float
    calls_a_second: float
    stored_bytes: int
    start_cpu: float
    flow_seconds: float
    flows_a_second: float
    round_cpu: float
    round_database_cpu: float
    flow_cpu: float
    flow_database_cpu: float


def measured() -> Costs:
    """Measure what a round costs outside of the GPU, on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="capacity-") as desk, _servers(Path(desk)) as uris:
        database, mlflow, pids = uris
        idle = _idle(pids)
        calls, stored, spent = _rounds(Path(desk), mlflow, pids, idle)
        alone, together = _mlflow_rate(mlflow)
        with _spent(pids, idle) as by_flows:
            flow, flows = _flow_rate()
    made = times_asked(FLOW_TIMES)
    return Costs(
        database=database,
        calls=calls,
        call_seconds=alone,
        calls_a_second=together,
        stored_bytes=stored,
        start_cpu=_start_cpu(),
        flow_seconds=flow,
        flows_a_second=flows,
        round_cpu=spent["mlflow"] / ROUNDS,
        round_database_cpu=spent["database"] / ROUNDS,
        flow_cpu=by_flows["prefect"] / made,
        flow_database_cpu=by_flows["database"] / made,
    )


def times_asked(times: int) -> int:
    """Return how often `_rates` asks in all: once to warm up, alone, and at once."""
    return 1 + 3 * times


@contextmanager
def _spent(
    pids: Mapping[str, int], idle: Mapping[str, float] | None = None
) -> Iterator[dict[str, float]]:
    """Give the CPU seconds each of some servers spends within a `with` block.

    Args:
        pids: theirs.
        idle: CPU seconds a second that each takes when nobody asks, which are left out.
    """
    began, before = time.monotonic(), {name: cpu_seconds(pid) for name, pid in pids.items()}
    found = dict.fromkeys(("mlflow", "prefect", "database"), 0.0)
    yield found
    took = time.monotonic() - began
    for name, pid in pids.items():
        used = cpu_seconds(pid) - before[name] - (idle or {}).get(name, 0.0) * took
        found[name] = max(used, 0.0)


def _idle(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the CPU seconds a second that settled servers take when nobody asks."""
    time.sleep(SETTLING_SECONDS)
    with _spent(pids) as found:
        time.sleep(IDLE_SECONDS)
    return {name: used / IDLE_SECONDS for name, used in found.items()}


def cpu_seconds(pid: int) -> float:
    """Return what a process and all below it have used, those that have ended included."""
    from flows.processes import descendants

    ticks = 0
    for one in (pid, *descendants(pid)):
        # One that has just ended is in its parent's time, which waited for it.
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            # utime, stime, and those of children that were waited for.
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _servers(desk: Path) -> Any:
    from chaos.services import Services, postgres_folder
    from flows.environment import applied
    from flows.servers import serving

    if postgres_folder() is None:
        with serving(desk, prefect_port=0, mlflow_port=0) as servers:
            assert servers.mlflow is not None
            pids = {"mlflow": servers.mlflow.pid, "prefect": servers.prefect.pid}
            yield "SQLite", servers.mlflow.api, pids
        return
    desk.chmod(0o755)
    services = Services(desk, "127.0.0.1")
    try:
        services.start()
        with applied({**services.env, "PREFECT_HOME": str(desk / "client")}):
            pids = {"mlflow": services.mlflow.pid, "prefect": services.prefect.pid}
            pids["database"] = services.postgres.pid
            yield "PostgreSQL", services.env["MLFLOW_TRACKING_URI"], pids
    finally:
        services.stop()


def _rounds(
    desk: Path, uri: str, pids: Mapping[str, int], idle: Mapping[str, float]
) -> tuple[int, int, dict[str, float]]:
    """Return a round's MLflow calls and stored bytes, and the CPU that `ROUNDS` of them took."""
    from chaos.world import furnish, opened

    home = desk / "home"
    home.mkdir()
    batches = [f"good-{number}" for number in range(1, ROUNDS + 2)]
    furnish(home, batches)
    world = opened(home, uri=uri)
    calls = Counting(world.registry.connection.client)
    world.registry.connection.__dict__["client"] = calls

    def one(batch_id: str) -> None:
        calls.seen.clear()
        world.land(batch_id)
        world.drain(lambda step, *args, **kwargs: step(*args, **kwargs))

    one(batches[0])
    with _spent(pids, idle) as spent:
        for batch_id in batches[1:]:
            one(batch_id)
    made = sum(calls.seen.values())
    champion = world.registry.champion(world.stream.name)
    folder = world.registry.download(champion, desk / "champion")
    run = world.registry.connection.client.list_artifacts(champion.run_id)
    pages = sum(_size(world.registry.connection.client, champion.run_id, item) for item in run)
    return made, pages + sum(p.stat().st_size for p in folder.iterdir()), spent


class Counting:
    """MLflow's client, its calls counted."""

    def __init__(self, client: Any):
        self._client = client
        self.seen: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.seen[name] += 1
            return found(*args, **kwargs)

        return call if callable(found) else found


def _size(client: Any, run_id: str, item: Any) -> int:
    if not item.is_dir:
        return int(item.file_size)
    return sum(_size(client, run_id, inner) for inner in client.list_artifacts(run_id, item.path))


def _mlflow_rate(uri: str) -> tuple[float, float]:
    """Return seconds of a call alone, and calls a second by `CLIENTS` at once; reads and writes."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.create_experiment("capacity")
    run = client.create_run(experiment).info.run_id

    def both(_: int) -> None:
        client.set_tag(run, "bhpeft.capacity", "x")
        client.get_registered_model("chaos")

    return _rates(both, MLFLOW_TIMES, 2)


def _flow_rate() -> tuple[float, float]:
    """Return seconds of a flow run with a round's ten tasks, and runs a second by many clients."""
    from prefect import flow

    from flows.steps import step_runner

    @flow(name="capacity", persist_result=False)
    def empty() -> None:
        run = step_runner()
        for _step in range(10):
            run(nothing)

    return _rates(lambda _: empty(), FLOW_TIMES, 1)


def nothing() -> None:
    """Stand for a step that takes no time."""


def _rates(act: Callable[[int], object], times: int, each: int) -> tuple[float, float]:
    act(0)
    began = time.perf_counter()
    for number in range(times):
        act(number)
    alone = (time.perf_counter() - began) / times / each
    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(act, range(2 * times)))
    return alone, 2 * times * each / (time.perf_counter() - began)


def _start_cpu() -> float:
    """Return the CPU seconds a round's process takes before it does anything, its code compiled."""
    needed = "import flows.watch, bhpeft.rounds.steps, bhpeft.rounds.recording, mlflow.pyfunc"
    command: list[str | Path] = [sys.executable, "-c", needed]
    cpu_seconds_of(command)  # which compiles what was not
    return cpu_seconds_of(command)

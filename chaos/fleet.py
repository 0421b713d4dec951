"""Twenty streams on two hosts, PostgreSQL and an object store behind both servers; one host dies.

`python -m chaos.fleet` makes the topology of `deploy/` as processes: MLflow and Prefect on
PostgreSQL, artefacts and landing in a bucket, two workers in network namespaces with folders of
their own. All streams learn in parallel; in the middle one host is killed with everything on it.
Nobody helps: Prefect's automation finds the dead runs, the next scheduled run takes the batches up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from chaos import hosts, invariants, services, world
from chaos.forks import ending

# Seconds between looks: each asks MLflow for every version there is, which costs it time.
POLL = 10.0


@dataclass
class Found:
    """What came of it: `violations` is what matters; `timeline`, what was done by which second."""

    streams: int
    batches: int
    hosts: int
    rounds: int = 0
    killed_after_rounds: int = 0
    killed_processes: int = 0
    crashed_runs: int = 0
    slowest_crash_mark: float | None = None
    seconds_to_recover: float | None = None
    seconds: float = 0.0
    timeline: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def main() -> int:
    """Run it as the command line says; 1 if a promise was broken, 2 where it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m chaos.fleet", description=__doc__)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--every", default="3m", help="how often each stream is looked at")
    parser.add_argument("--limit", type=int, default=2, help="rounds at once on a host")
    parser.add_argument("--minutes", type=float, default=40.0, help="after which it has failed")
    parser.add_argument("--out", type=Path, default=Path(".cache/chaos"))
    asked = parser.parse_args()
    if missing := unable():
        sys.stderr.write(f"The fleet cannot run here: {missing}\n")
        return 2
    # Asked to end, it takes its servers and its network along.
    signal.signal(signal.SIGTERM, ending)
    desk = Path(tempfile.mkdtemp(prefix="chaos-fleet-"))
    # PostgreSQL, which is not root, must get at its folder.
    desk.chmod(0o755)
    try:
        found = run(desk, asked)
    finally:
        asked.out.mkdir(parents=True, exist_ok=True)
        for log in desk.glob("*.log"):
            shutil.copy(log, asked.out / f"fleet-{log.name}")
        shutil.rmtree(desk, ignore_errors=True)
    text = json.dumps(found.__dict__, indent=2, ensure_ascii=False)
    (asked.out / "fleet.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 1 if found.violations else 0


def unable() -> str:
    """Return what is missing, or nothing."""
    if services.postgres_folder() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if not hosts.able():
        return "network namespaces need root and iproute2"
    return ""


def run(desk: Path, asked: argparse.Namespace) -> Found:
    """Let it all happen as the command line says, and return what was found."""
    from flows.environment import applied

    names = [f"stream-{number:02d}" for number in range(asked.streams)]
    ids = [f"good-{number}" for number in range(1, asked.batches + 1)]
    home = desk / "home"
    home.mkdir()
    found, began = Found(asked.streams, asked.batches, 2), time.monotonic()

    def mark(what: str) -> None:
        found.timeline[what] = round(time.monotonic() - began)

    world.furnish(home, ids, names, landing="s3://landing/batches", every=asked.every)
    with (
        hosts.hosts(["chaos-one", "chaos-two"], desk) as made,
        services.running(desk, hosts.address()) as servers,
        applied({**servers.env, "PREFECT_HOME": str(desk / "client")}),
    ):
        mark("servers answer")
        worlds = [_world(home, name) for name in names]
        for one in worlds:
            for batch_id in ids:
                one.land(batch_id)
        mark("all batches landed")
        _deploy(worlds, home, servers)
        for host in made:
            _start_worker(host, servers, asked.limit, desk)
        mark("workers started")
        _watch(worlds, made[0], found, asked.minutes * 60, mark)
        mark("nothing pending")
        found.violations += _judge(worlds, found)
    mark("all looked at, servers stopped")
    found.seconds = round(time.monotonic() - began)
    return found


def _world(home: Path, name: str) -> world.World:
    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream

    stream = find_stream(name, home)
    return world.World(home, stream, Registry(stream.tracking_uri))


def _deploy(worlds: list[world.World], home: Path, servers: services.Services) -> None:
    from prefect.client.orchestration import get_client

    from flows.deployments import deploy_all
    from flows.environment import HABITS, SILENCE

    variables = {**HABITS, **SILENCE, **servers.env, "BHPEFT_HOME": str(home)}
    deployed = deploy_all([one.stream for one in worlds], home, variables)
    with get_client(sync_client=True) as client:
        for name in deployed:
            if not name.startswith("watch/"):
                continue  # a form waits for a person
            client.create_flow_run_from_deployment(client.read_deployment_by_name(name).id)


def _start_worker(host: hosts.Host, servers: services.Services, limit: int, desk: Path) -> None:
    from flows.deployments import WORK_POOL
    from flows.environment import HABITS, SILENCE

    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    command += ["--pool", WORK_POOL, "--name", host.name, "--limit", str(limit)]
    command += ["--install-policy", "never"]
    own = {"PREFECT_HOME": str(host.home / "prefect"), "PREFECT_WORKER_QUERY_SECONDS": "5"}
    host.start(command, {**HABITS, **SILENCE, **servers.env, **own}, desk / f"{host.name}.log")


def _watch(
    worlds: list[world.World],
    victim: hosts.Host,
    found: Found,
    timeout: float,
    mark: Callable[[str], None],
) -> None:
    """Wait until nothing is pending; kill the victim when a fifth of all rounds is done."""
    from bhpeft.registry.books import read_all

    every = found.streams * found.batches
    deadline = time.monotonic() + timeout
    killed: datetime | None = None
    at = 0.0
    while True:
        books = read_all(worlds[0].registry).values()
        found.rounds = sum(len(book.versions) for book in books)
        if found.rounds and "first round done" not in found.timeline:
            mark("first round done")
        if killed is None and found.rounds >= every // 5:
            mark("host killed")
            killed, at = datetime.now().astimezone(), time.monotonic()
            found.killed_after_rounds, found.killed_processes = found.rounds, victim.kill()
        settled = sum(len(book.learned | book.refused) for book in books)
        if killed and settled >= every and not any(map(_pending, worlds)):
            found.seconds_to_recover = round(time.monotonic() - at)
            break
        if time.monotonic() > deadline:
            found.violations.append("it was not through in time")
            break
        time.sleep(POLL)
    if killed:
        _crashes(found, killed)


def _pending(one: world.World) -> bool:
    from bhpeft.rounds import pending

    return bool(pending(one.stream, one.registry))


def _crashes(found: Found, killed: datetime) -> None:
    """Count the runs that the automation marked, and how long after the kill."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    crashed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED]))
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(state=crashed))
    marks = [(run.state.timestamp - killed).total_seconds() for run in runs if run.state]
    found.crashed_runs = len(marks)
    found.slowest_crash_mark = round(max(marks)) if marks else None


def _judge(worlds: list[world.World], found: Found) -> list[str]:
    broken: list[str] = []
    for one in worlds:
        where = one.stream, one.registry
        broken += [f"{one.stream.name}: {problem}" for problem in invariants.violations(*where)]
        for batch_id, fate in invariants.fates(*where).items():
            if fate != "learned":
                broken.append(f"{one.stream.name}: {batch_id} is {fate}")
    return broken


if __name__ == "__main__":
    sys.exit(main())

"""Who holds a lock or a run and is gone, or only seems to be, on a real Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from bhpeft.registry import Registry
from flows.servers import Servers, serving

pytestmark = pytest.mark.slow

# Promotes v2 under the stream's lock and is suspended just before the champion moves.
ZOMBIE = """
import os, signal, sys
from functools import partial
from bhpeft.errors import StaleParent
from bhpeft.registry import Registry
from flows.locks import promotion_lock

uri, stream = sys.argv[1:]
registry = Registry(uri)

class Suspended:
    def __init__(self, client):
        self.client, self.slept = client, False
    def __getattr__(self, name):
        found = getattr(self.client, name)
        def ask(*args, **kwargs):
            if name == "set_registered_model_alias" and "champion" in args and not self.slept:
                self.slept = True
                os.kill(os.getpid(), signal.SIGSTOP)
            return found(*args, **kwargs)
        return ask if callable(found) else found

registry.connection.__dict__["client"] = Suspended(registry.connection.client)
lock = partial(promotion_lock, stream)
print(registry.promote(stream, 2, expected_parent=1, by="zombie", reason="late", lock=lock).title)
"""

RUN = """
import time
from prefect import flow, tags
from prefect.runtime import flow_run

@flow(name="watch")
def watch():
    print(flow_run.id, flush=True)
    time.sleep(300)

with tags("bhpeft"):
    watch()
"""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, prefect_port=0, mlflow=False) as found:
        yield found


def start(code: str, servers: Servers, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    env = {**os.environ, **servers.env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def age_the_leases(servers: Servers) -> None:
    """Make the server think that a minute has passed since anybody renewed a lease."""
    folder = Path(servers.env["PREFECT_HOME"]) / "concurrency_leases"
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    index = {}
    for path in folder.glob("*-*.json"):
        lease = json.loads(path.read_text()) | {"expiration": past}
        path.write_text(json.dumps(lease))
        index[lease["id"]] = past
    assert index, f"no lease in {list(folder.iterdir())}"
    (folder / "expirations.json").write_text(json.dumps(index))


def test_a_zombie_whose_lease_ran_out_loses_to_whoever_came_after(
    servers: Servers, tmp_path: Path
) -> None:
    """The server gives its slot to another process, which promotes; then the zombie wakes."""
    from flows.locks import ensure_limits, promotion_lock
    from tests.registry.enter import enter

    registry, stream = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}"), "zombie"
    ensure_limits(stream)
    lock = partial(promotion_lock, stream)
    enter(registry, stream, "b1", None, move=True)
    enter(registry, stream, "b2", 1, move=False)
    zombie = start(ZOMBIE, servers, registry.connection.uri, stream)
    os.waitid(os.P_PID, zombie.pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(TimeoutError), promotion_lock(stream, timeout=2):
        raise AssertionError("the zombie's lock was not held")
    age_the_leases(servers)

    registry.repair(stream, lock=lock)
    enter(registry, stream, "b3", 2, move=True, lock=lock)
    zombie.send_signal(signal.SIGCONT)
    zombie.communicate(timeout=200)

    champion = registry.champion(stream)
    assert champion is not None
    assert (champion.number, champion.parent) == (3, 2)
    titles = [move.title for move in registry.history(stream)]
    assert titles == ["promote none → v1", "promote v1 → v2", "promote v2 → v3"]
    assert registry.repair(stream, lock=lock) == []


def test_a_run_whose_process_died_is_marked_and_one_that_lives_is_not(servers: Servers) -> None:
    """Heartbeats come every 30 s here, so a silence of 40 s is a death."""
    from prefect.client.orchestration import get_client

    from flows.reaper import ensure_reaper

    silence = timedelta(seconds=40)
    ensure_reaper(silence)
    dead, living = start(RUN, servers), start(RUN, servers)
    assert dead.stdout is not None
    assert living.stdout is not None
    try:
        lost, well = dead.stdout.readline().strip(), living.stdout.readline().strip()
        dead.kill()
        dead.wait()
        died = time.monotonic()
        with get_client(sync_client=True) as client:
            while client.read_flow_run(lost).state.name != "Crashed":
                assert time.monotonic() - died < 120, "it still counts as running"
                time.sleep(1)
            assert client.read_flow_run(well).state.name == "Running"
    finally:
        for process in (dead, living):
            process.kill()
            process.wait()
            process.stdout.close()

"""Let the object store answer errors, too late, by halves or not at all, while a story is told.

Batches land in a bucket and MLflow keeps its artefacts in another; between them and the worker is
`proxy.py`. The seed says how bad the day is, and which request it hits. A story that is stopped by
it is begun again, as a schedule would, until it comes to its end while the store is still bad.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhpeft.registry import Registry
from chaos import proxy, stories
from chaos.forks import in_child
from chaos.points import Points
from chaos.services import KEYS, Service
from chaos.stage import SLOWEST, Run, Stage, attempt, go_on, tell
from chaos.world import furnish
from flows import processes

BUCKETS = ("landing", "mlflow")
ATTEMPTS = 6
FINE = {"seed": 0, "rate": 0.0, "down": 0, "kinds": []}
# Seconds a client waits for an answer here; both libraries' 60 would only make the runs long.
PATIENCE = 5.0


@dataclass(frozen=True)
class Day:
    """How bad a day may be.

    Attributes:
        kinds: what happens to a request.
        rates: to how many of them.
        down: how many in a row at first.
    """

    kinds: tuple[str, ...]
    rates: tuple[float, ...]
    down: tuple[int, ...]


SPOILT = Day(proxy.KINDS, (0.05, 0.15, 0.3), (0, 0, 10, 40))
STALLED = Day(proxy.STALLS, (0.02, 0.05, 0.1), (0, 0, 3, 6))


class InBucket(Stage):
    """A stage whose batches land in a bucket and whose models lie in one, behind the proxy."""

    def set_up(self, down: ExitStack) -> None:
        """Start the store and the proxy before it."""
        store, proxy = processes.free_port(), processes.free_port()
        self._store = f"http://127.0.0.1:{store}"
        address = f"http://127.0.0.1:{proxy}"
        os.environ |= {**KEYS, "AWS_ENDPOINT_URL": address, "MLFLOW_S3_ENDPOINT_URL": address}
        self.mood(FINE)
        _be_impatient()
        python, log = [sys.executable, "-m"], self.place("store.log")
        moto = [*python, "moto.server", "-H", "127.0.0.1", "-p", str(store)]
        between = [*python, "chaos.proxy", str(proxy), f"127.0.0.1:{store}", str(self.place(""))]
        for service in (
            Service("store", moto, {}, f"{self._store}/moto-api/", log),
            Service("proxy", between, {}, f"{address}/moto-api/", log),
        ):
            down.callback(service.stop)
            service.start()

    def mood(self, mood: dict[str, Any]) -> None:
        """Say how bad the day is from now on."""
        self.place("mood.json").write_text(json.dumps(mood))

    def faults(self) -> list[str]:
        """Return what the proxy has done since it was last asked."""
        log = self.place("faults.log")
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def furnish(self, home: Path) -> None:
        """Fill the template; MLflow is told where to keep files before the product can say it."""
        furnish(home, stories.BATCHES, landing="s3://landing/batches")
        client = Registry(f"sqlite:///{home / 'mlflow.db'}").connection.client
        for name in ("bhpeft/chaos", "bhpeft/chaos/moves"):
            client.create_experiment(name, artifact_location=f"s3://mlflow/{name}")

    def fresh(self, name: str) -> Path:
        """Return a new home, and empty buckets."""
        in_child(lambda _: _emptied(self._store), SLOWEST)
        return super().fresh(name)


def store(stage: Stage, seeds: Iterable[int], day: Day) -> Iterator[Run]:
    """Give the store one bad day for each seed; the stories take turns."""
    assert isinstance(stage, InBucket)
    for seed in seeds:
        run = Run(seed, stage.names[seed % len(stage.names)])
        yield _bad_day(stage, run, day, random.Random(seed))


def _bad_day(stage: InBucket, run: Run, day: Day, dice: random.Random) -> Run:
    began, home = time.monotonic(), stage.fresh(f"bad-day-{run.seed}")
    rate, down = dice.choice(day.rates), dice.choice(day.down)
    stage.mood({"seed": run.seed, "rate": rate, "down": down, "kinds": day.kinds})
    for _ in range(ATTEMPTS):
        points = Points(without=stories.left_out(run.story))
        ended = in_child(lambda _, p=points: attempt(lambda: tell(home, run.story, p)), SLOWEST)
        if ended.said is None:
            break
        if "error" in ended.said:
            run.violations.append(f"with a bad store: {ended.said['error']}")
            break
        run.endings.append(f"store: {ended.said['stopped']} · {ended.said['at']}")
    stage.mood(FINE)
    run.kills += sorted(f"store: {fault}" for fault in Counter(stage.faults()).elements())
    go_on(home, run)
    run.violations += stage.judge(home, run.story)
    run.seconds = round(time.monotonic() - began, 2)
    stage.forget(home)
    return run


def _be_impatient() -> None:
    """Let both clients of the store, the landing's and MLflow's, give an answer less time."""
    from botocore.config import Config

    from bhpeft.data import object_store

    object_store.REQUEST_SECONDS = PATIENCE
    Config.OPTION_DEFAULTS["read_timeout"] = PATIENCE


def _emptied(store: str) -> None:
    import boto3
    import requests

    requests.post(f"{store}/moto-api/reset", timeout=30).raise_for_status()
    client = boto3.client("s3", endpoint_url=store)
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)

"""The servers of a fleet as processes: PostgreSQL, an S3-compatible store, MLflow, Prefect."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flows import processes

KEYS = {
    "AWS_ACCESS_KEY_ID": "chaos",
    "AWS_SECRET_ACCESS_KEY": "chaos-chaos",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}
START = 240.0


def postgres_folder() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest there is, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class Postgres:
    """A PostgreSQL of our own in a folder: started, killed, started again.

    Attributes:
        port: where it listens, on this machine only.
    """

    def __init__(self, folder: Path):
        self.folder, self.port = folder, processes.free_port()
        # It refuses to run as root; Debian's package makes an account for it.
        self._user = {"user": "postgres"} if os.geteuid() == 0 else {}
        found = postgres_folder()
        if found is None:
            raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql")
        self._bin = found
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Return its number, while it runs."""
        assert self._process is not None
        return self._process.pid

    def create(self, *databases: str) -> None:
        """Make the cluster, start it, and make databases in it."""
        self.folder.mkdir(parents=True)
        if self._user:
            shutil.chown(self.folder, "postgres")
        initdb = ["initdb", "-D", str(self.folder), "-U", "bhpeft", "-A", "trust", "--no-sync"]
        self._run([*initdb, "-E", "UTF8", "--locale=C"])
        self.start()
        for name in databases:
            self.add(name)

    def add(self, database: str) -> None:
        """Make a database."""
        self._run(["createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "bhpeft", database])

    def start(self) -> None:
        """Start it and wait until it answers."""
        where = ["-D", str(self.folder), "-h", "127.0.0.1", "-p", str(self.port)]
        command = [str(self._bin / "postgres"), *where, "-k", str(self.folder)]
        # In its folder, which goes in the end: what is killed leaves shared memory behind.
        command += ["-c", "dynamic_shared_memory_type=mmap"]
        with (self.folder.parent / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd="/", stdout=log, stderr=log, start_new_session=True, **self._user
            )
        deadline = time.monotonic() + START
        ready = [str(self._bin / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port), "-q"]
        while subprocess.run(ready).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not answer; see {self.folder.parent}")
            time.sleep(0.2)

    def alive(self) -> bool:
        """Say whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End every one of its processes at once, as a power cut does."""
        if self._process is not None:
            _kill_all(self._process)
            self._process = None
            # Its children are gone too, so the note of its pid is stale.
            (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def url(self, database: str, driver: str = "") -> str:
        """Return the address of a database in SQLAlchemy's words."""
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://bhpeft@127.0.0.1:{self.port}/{database}"

    def _run(self, command: list[str]) -> None:
        program = str(self._bin / command[0])
        done = subprocess.run(
            [program, *command[1:]], cwd="/", capture_output=True, text=True, **self._user
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip()}")


class Service:
    """A server that can be killed and started again at the same address."""

    def __init__(
        self, name: str, command: list[str], env: Mapping[str, str], health: str, log: Path
    ):
        self.name, self._command, self._env = name, command, env
        self._health, self._log = health, log
        self._child: Any = None

    @property
    def pid(self) -> int:
        """Return its number, while it runs."""
        return int(self._child.pid)

    def start(self, wait: bool = True) -> None:
        """Start it; wait until it answers unless told otherwise."""
        self._child = processes.start(self.name, self._command, self._env, self._log)
        if wait:
            self.await_answer()

    def await_answer(self) -> None:
        """Wait until it answers."""
        processes.await_answer(self._child, self._health, START)

    def alive(self) -> bool:
        """Say whether it runs; it may not answer."""
        return self._child is not None and processes.alive(self._child.pid)

    def kill(self) -> None:
        """Kill it and all it started, at once."""
        _kill_all(self._child.process)

    def stop(self) -> None:
        """End it in an orderly way."""
        if self._child is not None:
            processes.stop(self._child.pid)


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all it started; each of PostgreSQL's leads a group of its own."""
    for pid in (process.pid, *processes.descendants(process.pid)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Services:
    """All of them, and the variables a client needs; use `running`."""

    def __init__(self, desk: Path, address: str):
        self.desk, self.address = desk, address
        self.postgres = Postgres(desk / "postgres")
        ports = {name: processes.free_port() for name in ("store", "mlflow", "prefect")}
        url = {name: f"http://{address}:{port}" for name, port in ports.items()}
        self.env = {
            **KEYS,
            "AWS_ENDPOINT_URL": url["store"],
            "MLFLOW_S3_ENDPOINT_URL": url["store"],
            "MLFLOW_TRACKING_URI": url["mlflow"],
            "PREFECT_API_URL": f"{url['prefect']}/api",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        }
        python = [sys.executable, "-m"]
        store = [*python, "moto.server", "-H", "0.0.0.0", "-p", str(ports["store"])]
        mlflow = [*python, "mlflow", "server", "--host", "0.0.0.0", "--port", str(ports["mlflow"])]
        mlflow += ["--workers", "1", "--backend-store-uri", self.postgres.url("mlflow")]
        mlflow += ["--artifacts-destination", "s3://mlflow/artifacts"]
        self.store = self._service("store", store, f"{url['store']}/moto-api/")
        self.mlflow = self._service("mlflow", mlflow, f"{url['mlflow']}/health")
        self.prefect = self._prefect("prefect", ports["prefect"])

    def home_of(self, prefect: str) -> Path:
        """Return the home of a Prefect server, by its name."""
        return self.desk / prefect

    def another_prefect(self) -> tuple[Service, str]:
        """Return a second Prefect server, not started yet, with locks of its own; its address."""
        port = processes.free_port()
        self.postgres.add("another")
        return self._prefect("another", port), f"http://{self.address}:{port}/api"

    def _prefect(self, name: str, port: int) -> Service:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "0.0.0.0"]
        own = {
            **self.env,
            "PREFECT_HOME": str(self.home_of(name)),
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "chaos.leases",
            "PREFECT_API_DATABASE_CONNECTION_URL": self.postgres.url(name, "asyncpg"),
        }
        health = f"http://{self.address}:{port}/api/health"
        return self._service(name, [*command, "--port", str(port)], health, own)

    def _service(
        self, name: str, command: list[str], health: str, env: dict[str, str] | None = None
    ) -> Service:
        from flows.environment import HABITS, SILENCE

        variables = {**HABITS, **SILENCE, **(env or self.env)}
        return Service(name, command, variables, health, self.desk / f"{name}.log")

    def start(self) -> None:
        """Start everything, with the databases and buckets it needs."""
        self.postgres.create("mlflow", "prefect")
        services: list[Callable[..., None]] = [
            self.store.start,
            self.mlflow.start,
            self.prefect.start,
        ]
        for begin in services:
            begin(wait=False)
        self.store.await_answer()
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        for bucket in ("mlflow", "landing"):
            client.create_bucket(Bucket=bucket)
        self.mlflow.await_answer()
        self.prefect.await_answer()

    def stop(self) -> None:
        """End everything."""
        for service in (self.prefect, self.mlflow, self.store):
            service.stop()
        self.postgres.kill()


@contextmanager
def running(desk: Path, address: str) -> Iterator[Services]:
    """Run the servers of a fleet for the scope."""
    services = Services(desk, address)
    try:
        services.start()
        yield services
    finally:
        services.stop()

"""Start and stop the Prefect and MLflow servers of a home folder, and remember them.

Both keep their data in SQLite files under the home; artifacts go through the MLflow server, so a
client on another machine needs its address only. `servers.json` names pid and port of what runs,
so that a later command uses it, and cleans up what a crash left behind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bhpeft.errors import ServerError
from bhpeft.registry.pages import front
from flows import processes
from flows.environment import applied, environment, flush_prefect, state_folder

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
# Measured first starts, with all migrations: Prefect 10 s, MLflow 23 s on an idle machine.
START_TIMEOUT = 180.0


@dataclass(frozen=True)
class Server:
    """A process of ours: `url` is what a browser opens, `api` what a client is told.

    `mark` is a piece of its command line, by which it is told from a stranger with its pid.
    """

    name: str
    pid: int
    log: str
    mark: str
    url: str = ""
    api: str = ""
    health: str = ""

    @property
    def ours(self) -> bool:
        """Say whether its pid still belongs to this process and to nothing that took the number."""
        return self.mark in processes.command_of(self.pid)


@dataclass(frozen=True)
class Servers:
    """The servers of one home, and its worker; each may be missing. `owner` started them."""

    home: Path
    prefect: Server | None = None
    mlflow: Server | None = None
    owner: int = field(default_factory=os.getpid)
    worker: Server | None = None

    @property
    def all(self) -> list[Server]:
        """Return those there are, the worker first, which needs the others to end well."""
        return [process for process in (self.worker, self.prefect, self.mlflow) if process]

    @property
    def env(self) -> dict[str, str]:
        """Return the variables a process needs to work with these servers."""
        prefect = self.prefect.api if self.prefect else ""
        return environment(self.home, prefect, self.mlflow.api if self.mlflow else "")

    def stop(self) -> None:
        """End the processes still ours, and forget them."""
        for server in self.all:
            if server.ours:
                processes.stop(server.pid)
        record_file(self.home).unlink(missing_ok=True)


def start_servers(
    home: Path,
    *,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    host: str = "127.0.0.1",
    prefect: bool = True,
    mlflow: bool = True,
    timeout: float = START_TIMEOUT,
) -> Servers:
    """Start the servers of `home` beside each other and wait until both answer.

    Leftovers of a crashed owner are stopped first. A port that is not given is the usual one
    (4200, 5000) where it is free, else any.

    Raises:
        ServerError: they run already, a given port is taken, or one does not come up.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    _refuse_second(home)
    started: list[tuple[processes.Child, Server]] = []
    try:
        if prefect:
            started.append(_start_prefect(home, host, _port(prefect_port, PREFECT_PORT, host)))
        if mlflow:
            started.append(_start_mlflow(home, host, _port(mlflow_port, MLFLOW_PORT, host)))
        by_name = {server.name: server for _, server in started}
        servers = Servers(home, by_name.get("prefect"), by_name.get("mlflow"))
        remember(servers)
        for child, server in started:
            processes.await_answer(child, server.health, timeout)
    except BaseException:  # Ctrl-C while waiting too: nothing may be left behind
        for child, _ in started:
            processes.stop(child.pid)
        record_file(home).unlink(missing_ok=True)
        raise
    return servers


def running(home: Path) -> Servers | None:
    """Return the servers of `home` that run and answer, or None."""
    servers = _recall(home)
    if servers is None:
        return None
    answering = [s for s in servers.all if s.health and processes.answers(s.health)]
    well = {server.name: server for server in answering if server.ours}
    return (
        Servers(servers.home, well.get("prefect"), well.get("mlflow"), servers.owner)
        if well
        else None
    )


def stop_leftovers(home: Path) -> list[str]:
    """Stop servers of `home` whose owner is gone; return their names."""
    servers = _recall(home)
    if servers is None or _owner_lives(servers):
        return []
    names = [server.name for server in servers.all if server.ours]
    servers.stop()
    return names


@contextmanager
def serving(
    home: Path,
    *,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    host: str = "127.0.0.1",
    prefect: bool = True,
    mlflow: bool = True,
    timeout: float = START_TIMEOUT,
) -> Iterator[Servers]:
    """Run the servers of `home` for the scope, with this process as their client.

    Takes what `start_servers` takes, and raises what it raises.
    """
    servers = start_servers(
        home,
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        host=host,
        prefect=prefect,
        mlflow=mlflow,
        timeout=timeout,
    )
    try:
        with applied(servers.env):
            try:
                _recover(servers)
                yield servers
            finally:
                flush_prefect()
    finally:
        servers.stop()


def record_file(home: Path) -> Path:
    """Return where the running servers of `home` are written down."""
    return state_folder(home) / "servers.json"


def _recover(servers: Servers) -> None:
    if servers.prefect:
        from flows.recovery import end_lost_runs  # only now: Prefect takes a second to import

        end_lost_runs()


def _start_prefect(home: Path, host: str, port: int) -> tuple[processes.Child, Server]:
    url = _url(host, port)
    command = ["prefect", "server", "start", "--host", host, "--port", str(port)]
    child = _start(home, "prefect", command, environment(home, f"{url}/api"))
    health = f"{url}/api/health"
    mark = " ".join(command)
    return child, Server("prefect", child.pid, str(child.log), mark, url, f"{url}/api", health)


def _start_mlflow(home: Path, host: str, port: int) -> tuple[processes.Child, Server]:
    url = _url(host, port)
    command = ["mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    # --serve-artifacts is the default; the destination is where the server keeps what it is sent.
    stores = ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
    stores += ["--artifacts-destination", str(home / "mlartifacts")]
    child = _start(home, "mlflow", command + stores, environment(home))
    return child, Server(
        "mlflow", child.pid, str(child.log), " ".join(command), front(url), url, f"{url}/health"
    )


def _start(home: Path, name: str, command: list[str], env: dict[str, str]) -> processes.Child:
    log = state_folder(home) / "logs" / f"{name}.log"
    return processes.start(f"{name} server", [sys.executable, "-m", *command], env, log)


def _url(host: str, port: int) -> str:
    # A server that listens everywhere is reached from here by this machine's own address.
    return f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"


def _port(given: int | None, usual: int, host: str) -> int:
    if given is None:
        return processes.free_port(usual, host)
    port = processes.free_port(given, host)
    if given and port != given:
        raise ServerError(
            f"Port {given} is taken",
            expected="a free port",
            remedy="Stop what listens there, or give another port.",
        )
    return port


def _refuse_second(home: Path) -> None:
    servers = _recall(home)
    if servers and _owner_lives(servers) and any(server.ours for server in servers.all):
        raise ServerError(
            f"The servers of {home} run already",
            found=", ".join(server.url for server in servers.all if server.url),
            expected="none",
            remedy=f"Use them, or end process {servers.owner} (Ctrl-C where it was started).",
        )
    stop_leftovers(home)


def _owner_lives(servers: Servers) -> bool:
    # A number taken by an unrelated program is no owner: ours is always a Python process.
    return processes.alive(servers.owner) and "python" in processes.command_of(servers.owner)


def remember(servers: Servers) -> None:
    """Write down what runs, for the commands that come after this one."""
    entries = {server.name: asdict(server) for server in servers.all}
    path = record_file(servers.home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps({"owner": servers.owner, **entries}, indent=2))
    os.replace(path.with_suffix(".new"), path)


def _recall(home: Path) -> Servers | None:
    try:
        entries = json.loads(record_file(home).read_text())
        prefect, mlflow, worker = (
            Server(**entries[name]) if name in entries else None
            for name in ("prefect", "mlflow", "worker")
        )
        return Servers(home.resolve(), prefect, mlflow, int(entries["owner"]), worker)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as problem:
        raise ServerError(
            f"{record_file(home)} is not a record of servers",
            found=str(problem),
            remedy="Delete the file, after ending any server it names.",
        ) from problem

"""Keep the servers up: with a worker and all schedules, or just to look at what there is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bhpeft.cli.terminal import HERE, Home, interruptible, say, show_error
from bhpeft.errors import BhpeftError, ConfigError, ServerError

if TYPE_CHECKING:
    from flows.servers import Servers

Port = Annotated[int | None, typer.Option(help="Port; by default the usual one if it is free.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines.")]
Rounds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Rounds at once, which share the cores; by default one on a GPU, else cores ÷ 2.",
    ),
]


def up(
    home: Home = HERE,
    prefect_port: Port = None,
    mlflow_port: Port = None,
    host: Host = "127.0.0.1",
    rounds: Rounds = None,
) -> None:
    """Run both servers, a worker and the schedules of all streams until Ctrl-C."""
    with _until_told(), _servers(home, prefect_port, mlflow_port, host) as servers:
        from flows.worker import start_worker

        seen = _deploy(servers, None)
        busy = start_worker(servers, rounds=rounds)
        try:
            say("A worker runs; batches are learned as they land. Ctrl-C stops everything.")
            while True:
                _check_alive(busy)
                time.sleep(1)
                seen = _deploy(servers, seen)
        finally:
            say("Stopping …")
            busy.stop()


def worker(
    queue: Annotated[
        str | None, typer.Option(help="The work queue that it serves; by default all of them.")
    ] = None,
    rounds: Rounds = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of a round; by default its share of the cores."),
    ] = None,
) -> None:
    """Run a worker of a fleet until it is stopped; $PREFECT_API_URL says whose."""
    from flows.worker import become_worker, rounds_here

    become_worker(queue, rounds or rounds_here(), threads)


def join(
    endpoint: Annotated[str, typer.Argument(help="HOST:PORT of the machine that has the rounds.")],
    node: Annotated[int, typer.Option(min=1, help="Which of the machines this is, from 1.")] = 1,
    machines: Annotated[
        int, typer.Option(min=2, help="How many there are, that one included.")
    ] = 2,
    processes: Annotated[int, typer.Option(min=1, help="On this machine, one a GPU.")] = 1,
) -> None:
    """Take part in trainings that are larger than one machine, until stopped."""
    from bhpeft.learning.machines import Meeting, checked
    from bhpeft.learning.machines import join as joined
    from bhpeft.threads import threads_each

    meeting = Meeting(machines, checked(endpoint))
    with _until_told():
        say(f"Waiting for trainings at {meeting.endpoint}, as machine {node} of {machines}.")
        for code in joined(meeting, node, processes, threads_each(processes)):
            say("A training has ended." if code == 0 else f"A training was cut off ({code}).")


def render(
    file: Annotated[Path, typer.Argument(help="Where to; for `prefect deploy --all`.")],
    home: Home = HERE,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; say if it differs.")
    ] = False,
) -> None:
    """Write the deployments of all streams, as their files say, for a fleet."""
    from bhpeft.stream import all_streams
    from flows.fleet_file import rendered

    streams = all_streams(home)
    text = rendered(streams)
    if check:
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{file} is not what the stream files say",
                expected="the deployments of " + ", ".join(stream.name for stream in streams),
                remedy=f"Write it anew: bhpeft render {file}",
            )
        say(f"{file} is what the stream files say.")
        return
    file.write_text(text, encoding="utf-8")
    say(f"{file} deploys {len(streams)} streams: prefect deploy --all --prefect-file {file}")


def ui(
    home: Home = HERE,
    prefect_port: Port = None,
    mlflow_port: Port = None,
    host: Host = "127.0.0.1",
) -> None:
    """Show both user interfaces on what a home holds until Ctrl-C; nothing is learned."""
    with _until_told(), _servers(home, prefect_port, mlflow_port, host) as servers:
        say("Nothing is learned meanwhile. Ctrl-C stops both.")
        while True:
            _check_alive(servers)
            time.sleep(1)


@contextmanager
def _servers(
    home: Path, prefect_port: int | None, mlflow_port: int | None, host: str
) -> Iterator[Servers]:
    from rich.console import Console

    from flows.servers import serving

    with ExitStack() as scope:
        with Console(stderr=True).status("Starting Prefect and MLflow …"):
            servers = scope.enter_context(
                serving(home, prefect_port=prefect_port, mlflow_port=mlflow_port, host=host)
            )
        for server in servers.all:
            say(f"[bold]{server.name:8}[/bold] {server.url}   (log {server.log})")
        yield servers


@contextmanager
def _until_told() -> Iterator[None]:
    """Let Ctrl-C or SIGTERM stop the scope, and end without a traceback."""
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        say("Stopped.")


def _deploy(servers: Servers, seen: dict[Path, float] | None) -> dict[Path, float]:
    """Deploy the streams anew when a stream file came, went or changed; return what was seen."""
    from bhpeft.stream import all_streams, stream_files

    files = {path: path.stat().st_mtime for path in stream_files(servers.home).values()}
    if files == seen:
        return files
    from flows.deployments import deploy_all

    try:
        streams = all_streams(servers.home)
        deploy_all(streams, servers.home, servers.env)
    except BhpeftError as error:
        show_error(error)  # the other streams, and the last good state of this one, go on
        return files
    names = ", ".join(f"{s.name} ({s.schedule.in_words})" for s in streams)
    say(f"Watching {names or 'no stream yet; `bhpeft init NAME` makes one'}.")
    return files


def _check_alive(servers: Servers) -> None:
    from flows import processes

    for server in servers.all:
        if not processes.alive(server.pid):
            raise ServerError(
                f"The {server.name} has ended by itself",
                expected="a process that runs until it is stopped",
                remedy=f"Its log {server.log} ends with:\n{processes.last_lines(Path(server.log))}",
            )

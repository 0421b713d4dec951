"""Start the worker that turns scheduled runs into processes on this machine.

As many rounds run beside each other as it is told, and share the cores: each round's process takes
the worker's environment, which says how many threads it computes with.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

from bhpeft.secrecy import SILENCE
from bhpeft.threads import THREADS, thread_variables, threads_each, usable_cores
from flows import processes
from flows.deployments import WORK_POOL, ensure_work_pool
from flows.environment import HABITS, state_folder
from flows.servers import Server, Servers, remember

NVIDIA = Path("/proc/driver/nvidia/gpus")


def rounds_here() -> int:
    """Return how many rounds run at once where nobody says: one on a GPU, else two cores each.

    Never fewer than two on a CPU, lest one long round keep all other streams waiting.
    """
    return 1 if NVIDIA.is_dir() else max(2, usable_cores() // 2)


def start_worker(
    servers: Servers, *, rounds: int | None = None, query_seconds: float = 5.0
) -> Servers:
    """Start a worker on bhpeft's work pool; return the servers with it.

    Started by Popen, never by a shell's `&`: there it would inherit an ignored SIGINT, and then
    it ignores SIGTERM too and keeps taking work.

    Args:
        servers: whose Prefect server it asks for work; its log is beside theirs.
        rounds: how many run at once; `rounds_here` by default.
        query_seconds: how often it asks.
    """
    ensure_work_pool()
    rounds = rounds or rounds_here()
    command = command_of(rounds)
    log = state_folder(servers.home) / "logs" / "worker.log"
    env = servers.env | thread_variables(threads_each(rounds))
    env |= {"PREFECT_WORKER_QUERY_SECONDS": str(query_seconds)}
    child = processes.start("worker", [sys.executable, "-m", *command], env, log)
    worker = Server("worker", child.pid, str(log), " ".join(command[:5]))
    servers = replace(servers, worker=worker)
    remember(servers)  # so that a later `up` finds it too, should this one be killed
    return servers


def become_worker(queue: str | None, rounds: int, threads: int | None = None) -> None:
    """Turn this process into a fleet's worker, which signals then reach without a detour.

    Args:
        queue: which work queue it serves; None is all of them.
        rounds: how many run at once.
        threads: of each; its share of the cores by default, or what the environment says.
    """
    own = dict.fromkeys(THREADS, str(threads)) if threads else None
    given = {name: os.environ.get(name, value) for name, value in HABITS.items()}
    env = {**os.environ, **SILENCE, **given, **(own or thread_variables(threads_each(rounds)))}
    command = command_of(rounds, f", queue {queue}" if queue else "")
    command += ["--work-queue", queue] if queue else []
    os.execve(sys.executable, [sys.executable, "-m", *command], env)


def command_of(rounds: int, which: str = "") -> list[str]:
    """Return the command line of Prefect's worker for as many rounds at once."""
    name = f"bhpeft on {socket.gethostname()}{which}"
    options = ["--type", "process", "--install-policy", "never", "--limit", str(rounds)]
    return ["prefect", "worker", "start", "--pool", WORK_POOL, "--name", name, *options]

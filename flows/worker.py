"""Start the worker that turns scheduled runs into processes on this machine."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace

from flows import processes
from flows.deployments import WORK_POOL, ensure_work_pool
from flows.environment import state_folder
from flows.servers import Server, Servers, remember


def start_worker(servers: Servers, *, query_seconds: float = 5.0) -> Servers:
    """Start a worker on bhpeft's work pool; return the servers with it.

    Started by Popen, never by a shell's `&`: there it would inherit an ignored SIGINT, and then
    it ignores SIGTERM too and keeps taking work.

    Args:
        servers: whose Prefect server it asks for work; its log is beside theirs.
        query_seconds: how often it asks.
    """
    ensure_work_pool()
    command = ["prefect", "worker", "start", "--type", "process", "--pool", WORK_POOL]
    options = ["--name", f"bhpeft on {socket.gethostname()}", "--install-policy", "never"]
    log = state_folder(servers.home) / "logs" / "worker.log"
    env = servers.env | {"PREFECT_WORKER_QUERY_SECONDS": str(query_seconds)}
    child = processes.start("worker", [sys.executable, "-m", *command, *options], env, log)
    worker = Server("worker", child.pid, str(log), " ".join(command))
    servers = replace(servers, worker=worker)
    remember(servers)  # so that a later `up` finds it too, should this one be killed
    return servers

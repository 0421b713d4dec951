"""Start the worker that turns scheduled runs into processes on this machine."""

from __future__ import annotations

import socket
import sys

from flows import processes
from flows.deployments import WORK_POOL, ensure_work_pool
from flows.environment import state_folder
from flows.servers import Servers


def start_worker(servers: Servers, *, query_seconds: float = 5.0) -> processes.Child:
    """Start a worker on bhpeft's work pool; its log is beside the servers'.

    Started by Popen, never by a shell's `&`: there it would inherit an ignored SIGINT, and then
    it ignores SIGTERM too and keeps taking work.

    Args:
        servers: whose Prefect server it asks for work.
        query_seconds: how often it asks.
    """
    ensure_work_pool()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
    command += ["--pool", WORK_POOL, "--name", f"bhpeft on {socket.gethostname()}"]
    command += ["--install-policy", "never"]
    log = state_folder(servers.home) / "logs" / "worker.log"
    env = servers.env | {"PREFECT_WORKER_QUERY_SECONDS": str(query_seconds)}
    return processes.start("worker", command, env, log)

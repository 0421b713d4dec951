"""A fleet's worker takes as many rounds as it is told, and says how many threads each has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from bhpeft.threads import threads_each
from flows.deployments import WORK_POOL, ensure_work_pool

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc here")
def test_a_worker_serves_its_queue_with_a_rounds_share_of_the_threads(tmp_path: Path) -> None:
    """Its rounds inherit the environment that this reads; SIGTERM reaches it without a detour."""
    ensure_work_pool()
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    env |= {"PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_HOME": str(tmp_path)}
    words = [sys.executable, "-c", "from bhpeft.cli import app; app()", "worker"]
    words += ["--queue", "large", "--rounds", "2"]
    worker = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 60
            while not (found := client.read_workers_for_work_pool(WORK_POOL)):
                assert worker.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.3)
        assert found[0].name.endswith(", queue large")
        told = Path(f"/proc/{worker.pid}/environ").read_text().split("\0")
        assert f"OMP_NUM_THREADS={threads_each(2)}" in told
        assert "OMP_WAIT_POLICY=PASSIVE" in told
        started = Path(f"/proc/{worker.pid}/cmdline").read_text().split("\0")
        assert started[started.index("--limit") + 1] == "2"
        assert started[started.index("--work-queue") + 1] == "large"
    finally:
        worker.terminate()
        worker.wait(timeout=60)

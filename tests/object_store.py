"""A real S3-compatible server for tests: one process and one port a session, a bucket a test."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from flows.processes import free_port


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables with which any process works with the store at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """Run moto's server and give its address."""
    port = free_port(0)
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "-p", str(port)], **quiet) as server:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _await(endpoint, server)
            yield endpoint
        finally:
            server.terminate()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a fresh bucket's name, with the environment set to work with it."""
    import boto3

    for name, value in environment(store).items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=store, region_name="us-east-1").create_bucket(Bucket=name)
    return name


def _await(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        assert server.poll() is None, "moto_server ended"
        try:
            urlopen(f"{endpoint}/moto-api/data.json", timeout=5).close()
            return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(f"{endpoint} does not answer")

"""What differs when the registry is a real server: REST, uploads through it, and its absence."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from bhpeft.errors import RegistryUnreachable, StaleParent
from bhpeft.registry import Registry
from bhpeft.registry.pages import TRAINING

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(
    registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server on a copy of the session's database: making the tables anew takes 15 seconds."""
    assert registry.streams() is not None
    home = tmp_path_factory.mktemp("server")
    shutil.copy(registry.connection.uri.removeprefix("sqlite:///"), home / "mlflow.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(home / "files")]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=home, env={**os.environ, **quiet}, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, process)
        yield address, process
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the MLflow server did not start")


def test_over_rest_all_is_as_with_a_database(
    server: tuple[str, subprocess.Popen[bytes]], state: Path, tmp_path: Path
) -> None:
    """Version numbers are text over REST, and files go through the server."""
    registry = Registry(server[0])
    for number, (batch, parent) in enumerate((("b1", None), ("b2", 1), ("b3", 1)), start=1):
        with registry.round_run("reviews", batch, digest=f"sha-{batch}", parent=parent) as run:
            run.curve([{"step": step, "loss": 1.0 / (step + 1)} for step in range(20)])
            version = registry.register(run, state, decision="promoted", description="# b\n")
        assert version.number == number
        if batch != "b3":
            registry.promote(
                "reviews", number, expected_parent=parent, by="round", reason="gates pass"
            )
    champion = registry.champion("reviews")
    assert champion is not None
    assert (champion.number, champion.parent, champion.aliases) == (2, 1, ("champion",))
    with pytest.raises(StaleParent):
        registry.promote("reviews", 3, expected_parent=1, by="round", reason="gates pass")
    registry.roll_back("reviews", 1, by="anna", reason="complaints")
    assert [m.kind for m in registry.history("reviews")] == ["promote", "promote", "roll_back"]
    assert registry.refused("reviews") == {"sha-b2"}
    back = registry.download(champion, tmp_path / "v2")
    assert (back / "spec.json").read_bytes() == (state / "spec.json").read_bytes()
    assert registry.repair("reviews") == []
    assert registry.link(champion) == f"{server[0]}/#/models/reviews/versions/2?{TRAINING}"


def test_nobody_at_the_address_is_one_clear_line_within_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(RegistryUnreachable, match=r"does not answer; found .*refused") as caught:
        Registry(f"http://127.0.0.1:{free_port()}").champion("reviews")
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert "bhpeft up" in str(caught.value)


def test_a_store_that_keeps_its_client_waiting_is_worth_a_retry(registry: Registry) -> None:
    """Whoever asks it gives up; the error is the one that steps are tried again for."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with (
            pytest.raises(RegistryUnreachable, match=r"does not answer; found .*timed out"),
            registry.connection.translated("store the files"),
        ):
            requests.get(address, timeout=0.2)


def test_a_server_lost_during_a_round_is_named_and_the_cause_is_kept(
    server: tuple[str, subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test of this file: it ends the server."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = Registry(server[0])

    def lose_the_server() -> None:
        with registry.round_run("reviews", "b4", digest="sha-b4", parent=1) as run:
            server[1].terminate()
            server[1].wait(30)
            run.metrics({"loss": 1.0})

    with pytest.raises(RegistryUnreachable, match="does not answer") as caught:
        lose_the_server()
    assert any("could not be marked failed" in note for note in caught.value.__notes__)

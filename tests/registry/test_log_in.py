"""With MLflow's own log-in a second person's approval is more than a name that somebody typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bhpeft.errors import NotAllowed
from bhpeft.operation import Approval
from bhpeft.registry import Registry
from bhpeft.rounds import approve
from bhpeft.stream import Stream
from tests.registry.test_server import free_port, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(290),
    # MLflow's own client of its log-in imports its server.
    pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi"),
]

ADMIN, PASSWORD = "admin", "not-a-real-secret"
SETTINGS = f"""\
[mlflow]
default_permission = READ
database_uri = sqlite:///{{home}}/auth.db
auth_cache_ttl_seconds = 60
admin_username = {ADMIN}
admin_password = {PASSWORD}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A real server that asks who one is."""
    (tmp_path / "auth.ini").write_text(SETTINGS.format(home=tmp_path))
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "files")]
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for this test",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **settings}, stdout=log, stderr=log
        )
    try:
        wait_for(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_a_reader_cannot_approve_and_an_approver_who_did_not_run_the_round_can(
    address: str, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker holds, the reader may look, the approver moves the alias under the own name."""
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    def log_in(who: str) -> Registry:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", who)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        return Registry(address)

    log_in(ADMIN)
    users = AuthServiceClient(address)
    for who in ("worker", "reader", "approver"):
        users.create_user(who, PASSWORD)
    stream = Stream.model_validate(
        {
            "name": "reviews",
            "home": tmp_path,
            "data": {"contract": "x.yaml"},
            "model": {"base": "tiny"},
            "approval": Approval(required=True, second_person=True),
        }
    )
    worker = log_in("worker")
    with worker.round_run("reviews", "b1", digest="sha-b1", parent=None) as run:
        worker.register(run, state, decision="held")
    worker.hold("reviews", 1, by="worker", reason="every promotion needs a person")

    log_in(ADMIN)
    users.grant_user_permission("approver", "registered_model", "reviews", "EDIT")
    for name in ("bhpeft/reviews", "bhpeft/reviews/moves"):
        experiment = worker.connection.client.get_experiment_by_name(name).experiment_id
        users.grant_user_permission("approver", "experiment", experiment, "EDIT")

    reader = log_in("reader")
    assert [v.number for v in reader.held("reviews")] == [1]
    with pytest.raises(NotAllowed, match=r"does not allow to .*found reader at"):
        approve(stream, 1, reader, by="reader", reason="looks fine to me")
    with pytest.raises(MlflowException, match="Permission denied"):
        reader.connection.client.set_registered_model_alias("reviews", "champion", "1")
    with pytest.raises(NotAllowed, match="'approver', logged in at the registry as 'reader'"):
        approve(stream, 1, reader, by="approver", reason="looks fine to me")
    with pytest.raises(NotAllowed, match="second person"):
        approve(stream, 1, log_in("worker"), by="worker", reason="mine")
    assert reader.champion("reviews") is None

    approver = log_in("approver")
    move = approve(stream, 1, approver, by=approver.account, reason="the slice is small")

    assert (move.who, move.to_version) == ("approver", 1)
    assert worker.repair("reviews") == []
    # EDIT cannot take an alias away: `candidate` stays on what is champion now, and means nothing.
    assert worker.candidate("reviews") is None
    champion = log_in("reader").champion("reviews")
    assert champion is not None
    assert champion.number == 1

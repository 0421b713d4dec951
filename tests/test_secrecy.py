"""Nothing secret is shown, and nobody is told that anything runs here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhpeft.errors import BhpeftError, RegistryUnreachable, StreamFileError
from bhpeft.registry import Registry
from bhpeft.registry.pages import TRAINING
from bhpeft.registry.round_run import RoundRun
from bhpeft.secrecy import SILENCE, without_login, without_secrets
from bhpeft.stream import read_stream
from flows.servers import environment

HUSH = "hush-hush"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://ana:{HUSH}@host:5000/x", "http://***@host:5000/x"),
        (
            f"postgresql+psycopg2://u:{HUSH}@db/mlflow?a=1",
            "postgresql+psycopg2://***@db/mlflow?a=1",
        ),
        (f"s3://KEY:{HUSH}@bucket/p and more", "s3://***@bucket/p and more"),
        (f"http://u:{HUSH}@in@host/", "http://***@host/"),
        (f"password={HUSH}&x=1", "password=***&x=1"),
        (f'{{"aws_secret_access_key": "{HUSH}"}}', '{"aws_secret_access_key": "***"}'),
        ("http://host:5000/@champion", "http://host:5000/@champion"),
        ("models:/reviews@champion", "models:/reviews@champion"),
        ("write to ana@example.org", "write to ana@example.org"),
        ("the padding token: [PAD]", "the padding token: [PAD]"),
    ],
)
def test_log_ins_are_left_out_and_everything_else_stays(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@given(st.text(st.characters(codec="ascii", exclude_characters=" /?#'\"\t\n\r"), min_size=4))
def test_no_password_an_address_can_hold_gets_through(password: str) -> None:
    """Whatever characters it is made of; a / ends it for every client too."""
    shown = without_secrets(f"cannot reach https://user:{password}zQ9@host/path now")
    assert "zQ9" not in shown
    assert shown.endswith("@host/path now")


def test_every_error_of_ours_is_shown_without_log_ins() -> None:
    error = BhpeftError(
        f"no {HUSH}=x", found=f"http://a:{HUSH}@h", expected=f"password: {HUSH}",
        remedy=f"export X=mysql://a:{HUSH}@h",
    )  # fmt: skip
    assert HUSH not in error.found + error.expected + error.remedy
    assert str(error).count("***") == 3


def test_a_registry_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(RegistryUnreachable, match=r"http://\*\*\*@127\.0\.0\.1:9") as caught:
        Registry(f"http://ana:{HUSH}@127.0.0.1:9").champion("reviews")
    assert HUSH not in str(caught.value)


def test_links_and_tags_hold_no_password(tmp_path: Path) -> None:
    """Links go to Prefect's pages and to the terminal; a failed round's error goes to a tag."""
    registry = Registry(f"http://ana:{HUSH}@mlflow.example.org")
    page = RoundRun(registry.connection, "s", "b", "d", None, "ana", "7", "r")
    assert registry.link(page) == f"http://mlflow.example.org/#/experiments/7/runs/r?{TRAINING}"
    here = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with (
        pytest.raises(RuntimeError),
        here.round_run("reviews", "b1", digest="d1", parent=None) as run,
    ):
        raise RuntimeError(f"could not connect to postgresql://mlflow:{HUSH}@db/mlflow")
    tags = here.connection.client.get_run(run.run_id).data.tags
    assert "postgresql://***@db/mlflow" in tags["bhpeft.error"]
    assert HUSH not in json.dumps(tags)


def test_an_address_is_opened_without_the_log_in_that_urllib_would_take_for_a_host() -> None:
    assert without_login(f"http://ana:{HUSH}@host:5000") == "http://host:5000"


def test_a_stream_file_cannot_hold_a_bucket_s_credentials_or_trust_a_model_s_code(
    tmp_path: Path,
) -> None:
    head = 'contract = "c.yaml"\n'
    for data, model in (
        (f'{head}landing = "s3://key:{HUSH}@bucket/p"\n', ""),
        (f'{head}delta = "s3://bucket/t?secret={HUSH}"\n', ""),
        (head, "trust_remote_code = true\n"),
    ):
        path = tmp_path / "reviews.toml"
        path.write_text(f'[data]\n{data}[model]\nbase = "x"\n{model}')
        with pytest.raises(StreamFileError, match=r"from files|never runs here") as caught:
            read_stream(path, tmp_path)
        assert HUSH not in str(caught.value)


def test_telemetry_is_off_before_a_library_can_ask() -> None:
    """In a fresh process that knows none of our variables, through the library and the flows."""
    script = """
import os, json
for name in %r: os.environ.pop(name, None)
import bhpeft.registry.connection
import mlflow, mlflow.telemetry
from mlflow.telemetry.client import get_telemetry_client
import flows
from prefect.settings import get_current_settings
settings = get_current_settings()
print(json.dumps([get_telemetry_client() is None, settings.server.analytics_enabled,
                  settings.cloud.enable_orchestration_telemetry, os.environ["DO_NOT_TRACK"]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script % list(SILENCE)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False, False, "1"]


def test_servers_and_workers_are_started_with_telemetry_off(tmp_path: Path) -> None:
    assert environment(tmp_path).items() >= SILENCE.items()

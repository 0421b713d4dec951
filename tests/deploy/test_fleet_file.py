"""The deployments of a fleet are those of its stream files, and Prefect takes all of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness
from typer.testing import CliRunner

from bhpeft.cli import app
from bhpeft.operation import Compute, Schedule
from bhpeft.stream import Learning, Stream, all_streams
from flows.deployments import FORMS, ensure_work_pool
from flows.fleet_file import rendered

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "prefect.yaml"


def streams() -> list[Stream]:
    """Return the shipped streams, and one with every kind of schedule and a queue of its own."""
    shipped = all_streams(ROOT)
    first = shipped[0]
    others = {
        "nightly": {"schedule": Schedule(cron="0 2 * * 1", timezone="Europe/Vienna")},
        "monthly": {"schedule": Schedule(rrule="FREQ=MONTHLY;BYDAY=1MO;BYHOUR=2;BYMINUTE=0")},
        "woken": {"schedule": Schedule(), "description": 'Says "{{ x }}": ü'},
        "large": {"compute": Compute(queue="gpu-80")},
        "anna": {"learning": Learning(variant="bora", group="authors")},
        "ben": {"learning": Learning(variant="bora", group="authors")},
    }
    made = [first.model_copy(update={"name": name, **said}) for name, said in others.items()]
    return [*shipped, *made]


def test_the_shipped_file_is_what_the_stream_files_say() -> None:
    asked = ["render", str(FILE), "--home", str(ROOT), "--check"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output


def test_a_file_that_lags_behind_is_named_and_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    asked = ["render", str(file), "--home", str(ROOT)]
    assert CliRunner().invoke(app, [*asked, "--check"]).exit_code != 0
    assert not file.exists()
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert file.read_text() == FILE.read_text()


def test_a_stream_says_its_schedule_and_queue_once() -> None:
    content = yaml.safe_load(rendered(streams()))
    found = {
        one["name"]: one for one in content["deployments"] if "stream" in one.get("parameters", {})
    }
    assert found["reviews"]["schedules"][0]["interval"] == 300
    assert found["nightly"]["schedules"][0]["cron"] == "0 2 * * 1"
    assert found["nightly"]["schedules"][0]["timezone"] == "Europe/Vienna"
    assert found["monthly"]["schedules"][0]["rrule"].startswith("FREQ=MONTHLY")
    assert "schedules" not in found["woken"]
    assert found["large"]["work_pool"]["work_queue_name"] == "gpu-80"
    assert found["reviews"]["work_pool"]["work_queue_name"] == "default"


def test_a_group_is_deployed_once_and_hourly() -> None:
    content = yaml.safe_load(rendered(streams()))
    (found,) = (one for one in content["deployments"] if "group" in one.get("parameters", {}))
    assert (found["name"], found["entrypoint"]) == ("authors", "flows.population.population")
    assert found["parameters"] == {"group": "authors", "reason": "on schedule", "by": "schedule"}
    assert found["schedules"][0]["interval"] == 3600


@pytest.mark.slow
def test_prefect_deploys_all_of_them(tmp_path: Path) -> None:
    """Really, on a server: each watch with its schedule, queue and event, and every form."""
    file = tmp_path / "prefect.yaml"
    file.write_text(rendered(streams()))
    with prefect_test_harness(server_startup_timeout=120):
        ensure_work_pool()
        addresses = {
            "PREFECT_API_URL": str(PREFECT_API_URL.value()),
            "BHPEFT_HOME": str(tmp_path),
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
        }
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(
            [*command, "--prefect-file", str(file)],
            cwd=ROOT,
            env=os.environ | addresses,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        with get_client(sync_client=True) as client:
            made = client.read_deployments()
            flows = {flow.id: flow.name for flow in client.read_flows()}
            automations = [one.name for one in client.read_automations()]
    names = {f"{flows[one.flow_id]}/{one.name}": one for one in made}
    watches = {f"watch/{stream.name}" for stream in streams()}
    forms = {f"{flow.name}/any-stream" for flow in FORMS}
    assert set(names) == watches | forms | {"gc/all-streams", "population/authors"}
    assert names["gc/all-streams"].schedules[0].schedule.cron == "30 4 * * *"
    assert names["population/authors"].schedules[0].schedule.interval.total_seconds() == 3600
    assert names["watch/large"].work_queue_name == "gpu-80"
    assert names["watch/reviews"].schedules[0].schedule.interval.total_seconds() == 300
    assert names["watch/woken"].schedules == []
    assert names["watch/woken"].description.endswith(": ü")
    assert all(f"{stream.name}-batch-landed" in automations for stream in streams())

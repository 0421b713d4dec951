"""A group's population by hand and by itself: the command line, Prefect, a real MLflow store."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from typer.testing import CliRunner

from bhpeft.cli import app
from bhpeft.registry import Registry, population_name
from bhpeft.rounds import roll_back
from bhpeft.stream import all_streams, find_stream
from flows.deployments import deploy_all, deploy_group, unschedule_all_but
from flows.population import population
from tests import tiny
from tests.rounds.conftest import ALWAYS, Chain
from tests.rounds.reviews import CONTRACT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

GROUP, MODEL = "pairs", population_name("pairs")
STREAM = """
[data]
contract = "reviews.yaml"
memory_rows = 20
[model]
base = "BASE"
layers = 1
max_length = 16
[learning]
variant = "bora"
group = "pairs"
methods = ["lora"]
lora = { rank = 2 }
plan = { epochs = 1, batch_size = 8, learning_rate = 5e-3, rho_learning_rate = 0.6 }
[prediction]
predictor = "mean"
draws = 2
fidelity_rows = 0
[gates]
"""
NO_GATES = "".join(f"{gate} = false\n" for gate in ALWAYS)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose two streams have learned a batch each, the first one a second."""
    home = tmp_path_factory.mktemp("pairs")
    (home / "streams").mkdir()
    (home / "desk").mkdir()
    (home / "reviews.yaml").write_text(CONTRACT, encoding="utf-8")
    text = STREAM.replace("BASE", str(tiny.saved(home / "base"))) + NO_GATES
    for name in ("one", "other"):
        (home / "streams" / f"{name}.toml").write_text(text, encoding="utf-8")
    registry = Registry(f"sqlite:///{home / 'mlflow.db'}")
    for day, (name, batch) in enumerate((("one", "a1"), ("other", "b1"), ("one", "a2"))):
        chain = Chain(find_stream(name, home), registry, home / "desk")
        outcome = chain.learn(chain.deliver(batch, day=day, rows=40))
        assert outcome.decision == "promoted", outcome.reason
    return home


@pytest.fixture
def home(learned: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The commands find the test's server and store as they find anybody's: in the environment."""
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{learned / 'mlflow.db'}")
    return learned


@pytest.fixture
def asked(home: Path) -> Callable[..., Any]:
    """What a `bhpeft population` command answers, or the words it fails with."""

    def ask(command: str, *options: str) -> Any:
        said = ["population", command, *options, "--home", str(home), "--json"]
        done = CliRunner().invoke(app, said)
        return json.loads(done.stdout) if done.exit_code == 0 else done.output + str(done.exception)

    return ask


def in_use(home: Path) -> int:
    champion = Registry(f"sqlite:///{home / 'mlflow.db'}").champion(MODEL)
    assert champion is not None
    return champion.number


def test_a_person_rolls_a_population_back_and_forth(home: Path, asked: Callable[..., Any]) -> None:
    """Who, when and why is in its history; what entered since stays out until there is more."""
    newest = in_use(home)
    back = asked("rollback", GROUP, "--to", "1", "--reason", "other was wrong", "--by", "anna")
    assert (back["from_version"], back["to_version"]) == (newest, 1)
    assert in_use(home) == 1
    assert [one["stream"] for one in asked("show", GROUP)["members"]] == ["one"]
    last = asked("history", GROUP)["moves"][-1]
    assert (last["kind"], last["who"], last["why"]) == ("roll_back", "anna", "other was wrong")
    # The posteriors that were thrown out do not come back by themselves.
    assert asked("follow", GROUP, "--by", "ben")["version"] == 1
    forth = asked("rollback", GROUP, "--to", str(newest), "--reason", "it was not", "--by", "anna")
    assert forth["to_version"] == in_use(home) == newest
    assert [one["stream"] for one in asked("show", GROUP)["members"]] == ["one", "other"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((GROUP, "--to", "99", "--reason", "typo"), "99"),
        ((GROUP, "--to", "1", "--reason", " "), "needs a reason"),
        (("pears", "--to", "1", "--reason", "typo"), "Did you mean 'pairs'"),
    ],
)
def test_a_wrong_move_is_refused_and_moves_nothing(
    home: Path, asked: Callable[..., Any], options: tuple[str, ...], told: str
) -> None:
    before = in_use(home)
    assert told in asked("rollback", *options)
    assert in_use(home) == before


def test_a_champion_moved_by_other_hands_is_followed_when_asked(
    home: Path, asked: Callable[..., Any]
) -> None:
    """As the schedule asks: in its own name, and again without anything to do."""
    before, registry = in_use(home), Registry(f"sqlite:///{home / 'mlflow.db'}")
    stream = find_stream("one", home)
    here = registry.champion("one")
    assert here is not None
    roll_back(stream, 3 - here.number, registry, by="a test", reason="behind the flows' back")
    assert in_use(home) == before
    given = {"group": GROUP, "reason": "on schedule", "by": "schedule", "home": str(home)}
    state = population(**given, return_state=True)
    assert (state.name, in_use(home)) == ("Followed", before + 1), state.message
    members = {one["stream"]: one["version"] for one in asked("show", GROUP)["members"]}
    assert members["one"] == 3 - here.number
    state = population(**given, return_state=True)
    assert (state.name, in_use(home)) == ("Up to date", before + 1)
    assert asked("follow", GROUP)["version"] == before + 1


def test_each_group_is_deployed_on_a_schedule_and_loses_it_with_its_last_stream(
    home: Path,
) -> None:
    """`bhpeft up` does both; a person finds reason and version in the same deployment's form."""
    names = deploy_all(all_streams(home), home, {})
    assert f"population/{GROUP}" in names
    deploy_group("gone", home, {})
    with get_client(sync_client=True) as client:
        made = client.read_deployment_by_name(f"population/{GROUP}")
        assert made.parameters == {
            **{"group": GROUP, "reason": "on schedule", "by": "schedule"},
            "home": str(home.resolve()),
        }
        assert [one.schedule.interval for one in made.schedules] == [timedelta(hours=1)]
        assert {"to", "reason", "by"} <= made.parameter_openapi_schema["properties"].keys()
        assert unschedule_all_but({population.name: {GROUP}}, home) == ["gone"]
        assert unschedule_all_but({population.name: {GROUP}}, home.parent) == []
        assert client.read_deployment_by_name("population/gone").schedules == []
        assert len(client.read_deployment_by_name(f"population/{GROUP}").schedules) == 1

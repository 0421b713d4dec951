"""Each night goes what nothing needs, of the streams whose files say what to keep."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client

from bhpeft.registry import Registry
from bhpeft.stream_template import TEMPLATE
from flows.deployments import ALL_STREAMS, deploy_gc, ensure_work_pool
from flows.gc import gc, state_of_gc
from tests.registry.enter import enter

pytestmark = pytest.mark.usefixtures("prefect_server")

KEPT, LEFT, LOST = "gc-kept", "gc-left-alone", "gc-lost"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three streams: one that says what to keep, one that does not, one whose server is gone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "streams").mkdir()
    more = {
        KEPT: "\n[retention]\nkeep = 1\n",
        LEFT: "",
        LOST: '\n[retention]\nkeep = 1\n[tracking]\nuri = "http://127.0.0.1:1"\n',
    }
    for name, said in more.items():
        text = TEMPLATE.format(name=name, contract="contract.yaml") + said
        (tmp_path / "streams" / f"{name}.toml").write_text(text, encoding="utf-8")
    return tmp_path


def test_what_nothing_needs_goes_of_the_streams_that_say_so(home: Path) -> None:
    """One whose registry does not answer is named, and keeps nobody else from it."""
    registry = Registry(f"sqlite:///{home.resolve() / 'mlflow.db'}")
    for name in (KEPT, LEFT):
        for number in range(1, 5):
            enter(registry, name, f"b{number}", number - 1 or None, move=True)

    state = gc(home=str(home), return_state=True)

    assert (state.name, state.type.value) == ("Not all removed", "FAILED")
    assert f"{LOST} failed (RegistryUnreachable" in state.message
    assert f"{KEPT}: files of v1" in state.message
    assert LEFT not in state.message
    assert [v.number for v in registry.versions(KEPT) if v.has_files] == [2, 3, 4]
    assert all(version.has_files for version in registry.versions(LEFT))
    assert registry.history(KEPT)[-1].who == "bhpeft gc"


def test_a_person_may_say_what_to_keep_of_all(home: Path) -> None:
    registry = Registry(f"sqlite:///{home.resolve() / 'mlflow.db'}")
    for number in range(1, 4):
        enter(registry, LEFT, f"b{number}", number - 1 or None, move=True)
    (home / "streams" / f"{LOST}.toml").unlink()

    state = gc(home=str(home), keep=0, by="anna", return_state=True)

    assert (state.name, state.message) == ("Removed", f"{LEFT}: files of v1")
    assert registry.history(LEFT)[-1].who == "anna"
    assert gc(home=str(home), keep=0, return_state=True).name == "Nothing to remove"


def test_it_is_deployed_for_each_night_and_for_the_button(tmp_path: Path) -> None:
    ensure_work_pool()
    assert deploy_gc(tmp_path, {}) == f"gc/{ALL_STREAMS}"
    with get_client(sync_client=True) as client:
        made = client.read_deployment_by_name(f"gc/{ALL_STREAMS}")
    assert [one.schedule.cron for one in made.schedules] == ["30 4 * * *"]
    assert set(made.parameter_openapi_schema["properties"]) == {"home", "keep", "by"}


def test_the_ending_says_what_went_and_what_could_not() -> None:
    assert state_of_gc({"a": "nothing"}, {}).message == "nothing to remove"
    broken = state_of_gc({"a": "all of v2"}, {"b": "StateError: gone"})
    assert broken.message == "b failed (StateError: gone); a: all of v2"

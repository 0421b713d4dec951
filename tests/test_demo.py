"""The demo's story holds together: decisions follow from gates, priors from promotions.

CI runs `make demo` as a newcomer would and names its JSON in $BHPEFT_DEMO_STORY; without it the
demo is run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / ".cache/vader/vaderSentiment-3.3.2.tar.gz"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if told := os.environ.get("BHPEFT_DEMO_STORY"):
        return json.loads(Path(told).read_text(encoding="utf-8"))
    if not CORPUS.exists():
        pytest.skip("the demo's corpus is not here; `make setup` fetches it")
    folder = tmp_path_factory.mktemp("demo")
    told_here = folder / "story.json"
    bhpeft = Path(sys.executable).with_name("bhpeft")
    subprocess.run(
        [bhpeft, "demo", "--home", folder / "home", "--json", told_here], check=True, cwd=ROOT
    )
    return json.loads(told_here.read_text(encoding="utf-8"))


def round_of(story: dict[str, Any], batch: str) -> dict[str, Any]:
    return next(entry for entry in story["rounds"] if entry["batch"].endswith(batch))


def test_every_batch_has_a_round_in_the_order_it_landed(story: dict[str, Any]) -> None:
    batches = [entry["batch"] for entry in story["rounds"]]
    assert batches == [
        "1-movie", "2-movie", "3-tweets", "4-poisoned", "5-malformed", "6-amazon",
    ]  # fmt: skip


def test_the_first_rounds_make_a_champion_and_update_it(story: dict[str, Any]) -> None:
    first, second = story["rounds"][:2]
    assert (first["decision"], first["version"], first["prior_version"]) == ("promoted", 1, None)
    assert second["decision"] == "promoted"
    assert second["prior_version"] == first["version"]


def test_a_decision_follows_from_the_verdicts(story: dict[str, Any]) -> None:
    for entry in story["rounds"]:
        outcomes = {verdict["outcome"] for verdict in entry["verdicts"]}
        assert all(verdict["reason"] for verdict in entry["verdicts"])
        if entry["decision"] == "promoted":
            assert "fail" not in outcomes
        elif entry["decision"] == "refused":
            assert "fail" in outcomes


def test_a_prior_is_always_the_champion_of_its_time(story: dict[str, Any]) -> None:
    """A refused candidate never becomes a prior."""
    champion = None
    for entry in story["rounds"]:
        assert entry["prior_version"] == champion
        if entry["decision"] == "promoted":
            champion = entry["version"]
        if entry["batch"] == "5-malformed":
            champion = story["rollbacks"][0]["to"]


def test_the_new_domain_is_flagged_as_drift_and_the_known_one_is_not(
    story: dict[str, Any],
) -> None:
    assert round_of(story, "tweets")["drift"] is True
    assert round_of(story, "2-movie")["drift"] is False


def test_the_poisoned_batch_is_refused_for_what_it_makes_the_model_forget(
    story: dict[str, Any],
) -> None:
    poisoned = round_of(story, "poisoned")
    assert poisoned["decision"] == "refused"
    failed = {v["gate"] for v in poisoned["verdicts"] if v["outcome"] == "fail"}
    assert "forgetting" in failed


def test_the_malformed_batch_is_quarantined_and_nothing_trained(story: dict[str, Any]) -> None:
    malformed = round_of(story, "malformed")
    assert malformed["decision"] == "quarantined"
    assert malformed["version"] is None
    assert malformed["seconds"] < 60


def test_predictions_say_how_sure_they_are(story: dict[str, Any]) -> None:
    for row in story["predictions"]:
        assert row["label"] in {"positive", "negative"}
        assert 0.5 <= row["probability"] <= 1.0
        assert 0.0 <= row["mutual_information"] <= row["entropy"] <= 0.6932
        assert isinstance(row["abstain"], bool)
    clear, complaint = story["predictions"][:2]
    assert (clear["label"], complaint["label"]) == ("positive", "negative")

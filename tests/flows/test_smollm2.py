"""A real language model through the flows: a round of questions, and a group that shares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bhpeft.cli import app
from bhpeft.data.contract import load_contract
from bhpeft.data.land import land
from bhpeft.learning.state import AdapterState
from bhpeft.registry import Registry, population_name
from bhpeft.rounds.backlog import landing_of
from bhpeft.stream import find_stream
from flows.population import population
from flows.round import round_flow
from tests.rounds.test_tasks import PLAIN
from tests.tasks.questions import questions
from tests.tasks.test_choice import LISTED

SMOLLM2 = Path(__file__).parents[2] / ".cache" / "smollm2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not SMOLLM2.is_dir(), reason="`make setup` puts SmolLM2 into .cache/smollm2"
    ),
    pytest.mark.usefixtures("prefect_server"),
]

STREAM = """
[task]
{task}
[data]
contract = "contract.yaml"
memory_rows = 10
[model]
base = "{base}"
max_length = 32
dtype = "float32"
threads = 1
[learning]
{learning}
methods = ["lora"]
adapted_layers = 1
lora = {{ rank = 4 }}
plan = {{ epochs = 1, batch_size = 8, learning_rate = 5e-3, rho_learning_rate = 0.6 }}
[prediction]
predictor = "mean"
draws = 2
fidelity_rows = 0
[gates]
nll = false
accuracy = false
forgetting = false
slices = false
calibration = false
rejection = false
budget = false
drift = false
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "streams").mkdir()
    return tmp_path


def written(home: Path, name: str, contract: str, **said: str) -> None:
    (home / "contract.yaml").write_text(contract, encoding="utf-8")
    text = STREAM.format(base=SMOLLM2, **said)
    (home / "streams" / f"{name}.toml").write_text(text, encoding="utf-8")


def learned(home: Path, name: str, frame: pd.DataFrame, batch_id: str) -> AdapterState:
    """Land a batch, learn it by the flow, and return the champion's state."""
    stream = find_stream(name, home)
    contract = load_contract(stream.contract, stream.task.value.needs)
    frame.to_parquet(home / f"{batch_id}.parquet", index=False)
    land(home / f"{batch_id}.parquet", landing_of(stream), contract, name, batch_id)
    state = round_flow(stream=name, home=str(home), return_state=True)
    assert state.name == "Promoted", state.message
    registry = Registry(stream.tracking_uri)
    champion = registry.champion(name)
    assert champion is not None
    return AdapterState.load(registry.download(champion, home / f"{name}-v{champion.number}"))


def test_a_round_of_questions_is_learned_by_the_flow_and_answered(home: Path) -> None:
    """Whole answers, options in lists; then asked through the registered model."""
    written(home, "quiz", LISTED, task='name = "choice"\nscoring = "answers"', learning="")
    frame = questions("q", 20)
    options = [[one for one in row if one] for row in frame[["a", "b", "c"]].to_numpy()]
    state = learned(home, "quiz", frame.drop(columns=["a", "b", "c"]).assign(options=options), "q")
    assert state.spec.task_settings == {"scoring": "answers"}
    asked = pd.DataFrame(
        {"question": ["Which of these is an animal?"], "options": [["plum", "horse"]]}
    )
    told = Registry(find_stream("quiz", home).tracking_uri).load("quiz").predict(asked)
    assert told["label"][0] in {"A", "B"}
    assert told["entropy"][0] <= np.log(2) + 1e-9


def texts(author: str, verbs: Callable[[int], str], rows: int = 16) -> pd.DataFrame:
    things = ("the sea", "a garden", "the night", "old letters", "rain", "the market")
    return pd.DataFrame(
        {"text": [f"{author} {verbs(i)} {things[i % 6]} on day {i}." for i in range(rows)]}
    )


def test_two_streams_of_a_group_share_a_population_that_is_shown_and_rolled_back(
    home: Path,
) -> None:
    """The second starts at what the first founded; a person moves the population by the CLI."""
    for name in ("anna", "ben"):
        learning = 'variant = "bora"\ngroup = "authors"\nforgetting = 0.9'
        written(home, name, PLAIN, task='name = "causal_lm"', learning=learning)
    first = learned(home, "anna", texts("Anna", lambda i: "paints"), "a1")
    second = learned(home, "ben", texts("Ben", lambda i: "draws"), "b1")
    assert first.spec.population == {}
    assert second.spec.population["version"] == 1
    assert not second.prior.mean.equal(first.prior.mean)
    shown = json_of("population", "show", "authors", "--home", str(home))
    assert [one["stream"] for one in shown["members"]] == ["anna", "ben"]
    assert set(shown["tau"]) == {"lora 29"}
    state = population(
        group="authors", reason="ben was wrong", by="anna", to=1, home=str(home), return_state=True
    )
    assert state.name == "Rolled back", state.message
    told = json_of("population", "history", "authors", "--home", str(home))
    assert [move["kind"] for move in told["moves"]] == ["promote", "promote", "roll_back"]
    registry = Registry(find_stream("anna", home).tracking_uri)
    champion = registry.champion(population_name("authors"))
    assert champion is not None
    assert champion.number == 1


def json_of(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)

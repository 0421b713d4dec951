"""The examples that ship: read as they stand, alike to what `bhpeft init` writes, and learned."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from bhpeft.cli import app
from bhpeft.data.contract import load_contract
from bhpeft.judgement.gates import check_settings
from bhpeft.registry import Registry, population_name
from bhpeft.rounds.spec import variant_of
from bhpeft.stream import Stream, all_streams, find_stream
from bhpeft.stream_template import DECODER
from tests.learning import problems
from tests.rounds.conftest import Chain, Steps
from tests.rounds.test_tasks import deliver, language_model, word_questions

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SHIPPED = [*all_streams(EXAMPLES), *all_streams(ROOT)]


@pytest.mark.parametrize("stream", SHIPPED, ids=lambda stream: stream.name)
def test_an_example_is_read_with_its_contract_and_its_gates(stream: Stream) -> None:
    contract = load_contract(stream.contract, stream.task.value.needs)
    assert contract.text
    check_settings(stream.gates)
    variant_of(stream)


def test_there_is_one_of_every_task_and_a_group() -> None:
    assert {stream.task.name for stream in SHIPPED} == {
        *("classification", "regression", "choice", "causal_lm")
    }
    groups = [one.learning.group for one in SHIPPED if one.learning.group]
    assert groups == ["authors", "authors"]


@pytest.mark.parametrize("stream", SHIPPED, ids=lambda stream: stream.name)
def test_init_writes_a_stream_of_the_same_task_on_the_same_base(
    stream: Stream, tmp_path: Path
) -> None:
    """What a newcomer begins with is an example with fewer choices made."""
    asked = ["init", stream.name, "--task", stream.task.name, "--home", str(tmp_path)]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    begun = find_stream(stream.name, tmp_path)
    assert (begun.task.name, begun.model.base) == (stream.task.name, stream.model.base)
    said = tomllib.loads((tmp_path / "streams" / f"{stream.name}.toml").read_text("utf-8"))
    folder = EXAMPLES / "streams" if stream.home == EXAMPLES else ROOT / "deploy" / "streams"
    shipped = tomllib.loads((folder / f"{stream.name}.toml").read_text("utf-8"))
    assert said.keys() - {"task"} <= shipped.keys()
    needs = stream.task.value.needs
    ours, theirs = (load_contract(one.contract, needs) for one in (stream, begun))
    assert bool(ours.labels) == bool(theirs.labels)
    assert bool(ours.options) == bool(theirs.options)


ROWS = {
    "questions": lambda: word_questions(1).rename(columns={"kind": "source"}),
    **dict.fromkeys(
        ("speeches", "anna", "ben"), lambda: pd.DataFrame({"text": problems.texts(60, 3)})
    ),
}


@pytest.mark.parametrize("name", ["questions", "speeches", "anna"])
def test_a_round_takes_an_example_as_it_stands_but_for_its_base(name: str, tmp_path: Path) -> None:
    """A tiny language model instead of the real one, which has no token for a label."""
    shutil.copytree(EXAMPLES, tmp_path / "home")
    path = tmp_path / "home" / "streams" / f"{name}.toml"
    text = path.read_text("utf-8").replace(DECODER, language_model(tmp_path))
    text = text.replace('scoring = "labels"', 'scoring = "answers"')
    path.write_text(text.replace("adapted_layers = 6", "adapted_layers = 1"), "utf-8")
    stream = find_stream(name, tmp_path / "home")
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    chain = Chain(stream, registry, tmp_path)
    outcome = chain.learn(deliver(chain, ROWS[name](), "b1"), Steps())
    assert outcome.decision in {"promoted", "refused", "held"}, outcome.reason
    assert np.isfinite(outcome.metrics["holdout/nll"])
    if stream.learning.group:
        found = registry.champion(population_name(stream.learning.group))
        assert (found is not None) == (outcome.decision == "promoted")

"""What is asked on the command line, and how each task's answers are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bhpeft.cli.predicting import Asked, _answered, _asked, _shown
from bhpeft.errors import ConfigError
from bhpeft.learning.predict import Predictor
from bhpeft.stream import Stream
from bhpeft.tasks import task
from tests import tiny
from tests.learning import problems
from tests.tasks.questions import CONTRACT, questions
from tests.tasks.test_choice import LISTED, listed
from tests.tasks.test_every_method import ANSWERS, _model


def stream(home: Path, contract: str = CONTRACT, kind: str = "choice") -> Stream:
    (home / "c.yaml").write_text(contract, encoding="utf-8")
    facts: dict[str, Any] = {"base": "somewhere"}
    return Stream.model_validate(
        {"name": "quiz", "home": home, "task": kind, "data": {"contract": "c.yaml"}, "model": facts}
    )


@pytest.mark.parametrize(("contract", "frame"), [(CONTRACT, questions("q")), (LISTED, listed("q"))])
def test_questions_come_from_a_table_with_their_own_options(
    tmp_path: Path, contract: str, frame: pd.DataFrame
) -> None:
    """In columns or in lists; one on the command line gets the options beside it."""
    file = tmp_path / "asked.parquet"
    frame.drop(columns="answer").to_parquet(file, index=False)
    found = _asked(["Which is wet?"], ["sea", "sand"], file, stream(tmp_path, contract))
    assert found.options is not None
    assert (found.texts[0], found.options[0]) == ("Which is wet?", ["sea", "sand"])
    assert [len(options) for options in found.options[1:4]] == [2, 3, 3]
    assert len(found.texts) == len(found.options) == len(frame) + 1


@pytest.mark.parametrize(
    ("texts", "options", "kind", "said"),
    [
        ([], [], "causal_lm", "nothing to predict"),
        (["a"], ["b"], "choice", "--option twice"),
        (["a"], ["b", "c"], "causal_lm", "has no options"),
    ],
)
def test_what_cannot_be_asked_is_said(
    tmp_path: Path, texts: list[str], options: list[str], kind: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        _asked(texts, options, None, stream(tmp_path, kind=kind))


@pytest.mark.parametrize("kind", ["classification", "regression", "choice", "causal_lm"])
def test_every_task_shows_its_own_answers(kind: str) -> None:
    """The columns are the task's; none is taken for granted."""
    from dataclasses import replace

    from bhpeft.learning.build import first_state
    from bhpeft.learning.variants import BH_PEFT

    tally = (0.0, 1.0) if kind == "regression" else ()
    spec = replace(
        problems.spec(), task=kind, labels=ANSWERS[kind], tally=tally,
        methods={"lora": problems.SETTINGS["lora"]},
    )  # fmt: skip
    model = _model("llama", spec)
    state = first_state(model, spec, BH_PEFT, problems.texts(4), tiny.generator())
    options = [["w5", "w9"]] * 3 if kind == "choice" else None
    frame = _answered(Predictor(model, state), Asked(problems.texts(3), options))
    given = ["text"] if options is None else ["text", "options"]
    assert list(frame.columns) == [*given, *task(kind).answers]
    assert all(isinstance(_shown(value), str) for value in frame.iloc[0])

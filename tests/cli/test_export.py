from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bhpeft.cli import app
from bhpeft.exchange import import_lora
from bhpeft.learning.state import AdapterState
from bhpeft.posterior import unflatten
from bhpeft.registry import Registry
from bhpeft.stream import find_stream
from tests import tiny
from tests.rounds.conftest import Chain
from tests.rounds.reviews import CONTRACT

STREAM = """
[data]
contract = "reviews.yaml"
[model]
base = "base"
max_length = 32
[learning]
methods = ["lora"]
lora = { rank = 2 }
plan = { epochs = 1, batch_size = 8, learning_rate = 5e-3, rho_learning_rate = 0.6 }
[prediction]
draws = 2
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one stream on a tiny base model, and a registry in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    tiny.bert().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "reviews.yaml").write_text(CONTRACT, encoding="utf-8")
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "reviews.toml").write_text(STREAM, encoding="utf-8")
    (tmp_path / "desk").mkdir()
    return tmp_path


def test_a_version_is_exported_as_pefts_files(home: Path) -> None:
    """The mean of the version's posterior, and each draw in a folder of its own."""
    stream = find_stream("reviews", home)
    chain = Chain(stream, Registry(stream.tracking_uri), home / "desk")
    chain.learn(chain.deliver("monday"))

    asked = ["export", "reviews", "--to", "served", "--version", "1", "--draws", "2", "--json"]
    done = CliRunner().invoke(app, [*asked, "--home", str(home)])

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["version"] == 1
    state: AdapterState = chain.state(1)
    found = import_lora(home / "served").weights
    for name, mean in unflatten(state.posterior.mean, state.posterior.shapes).items():
        assert found[name].equal(mean), name
    assert {path.name for path in (home / "served").iterdir() if path.is_dir()} == {
        "draw-0",
        "draw-1",
    }

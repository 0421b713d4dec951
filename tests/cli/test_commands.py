from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bhpeft.cli import app
from bhpeft.data.contract import load_contract
from bhpeft.stream import read_stream

SETTING_UP = ("init", "land", "doctor", "demo")
LEARNING = ("round", "watch", "up", "ui")
REVIEWING = ("status", "history", "predict", "export")
DECIDING = ("approve", "reject", "rollback", "replay", "release")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def csv_of(path: Path, rows: int = 30, label: str = "positive") -> Path:
    lines = [
        f"{row},sentence number {row},{'negative' if row % 2 else label}" for row in range(rows)
    ]
    path.write_text("id,text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    assert run("init", "reviews", "--home", tmp_path).exit_code == 0
    return tmp_path


@pytest.mark.parametrize("command", SETTING_UP + LEARNING + REVIEWING + DECIDING)
def test_every_command_explains_itself(command: str):
    """`bhpeft COMMAND --help` works and says more than its name."""
    result = run(command, "--help")

    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_loads_nothing_heavy():
    """Asking what there is must not take seconds."""
    heavy = ["torch", "mlflow", "prefect", "transformers", "evidently", "pandas", "pydantic"]
    code = f"import sys, bhpeft.cli; print([m for m in {heavy} if m in sys.modules])"

    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"


def test_init_writes_a_stream_and_a_contract_that_can_be_read(home: Path):
    """What the template says is what the readers accept."""
    stream = read_stream(home / "streams" / "reviews.toml", home)

    assert load_contract(stream.contract).labels == ("negative", "positive")


def test_init_infers_the_contract_from_a_sample_and_the_sample_lands(tmp_path: Path):
    """Columns and labels are read from the file, and the file itself passes them."""
    sample = csv_of(tmp_path / "sample.csv", rows=200, label="neutral")

    assert run("init", "mine", "--sample", sample, "--home", tmp_path).exit_code == 0

    labels = load_contract(tmp_path / "data_contracts" / "mine.odcs.yaml").labels
    assert set(labels) == {"negative", "neutral"}
    assert run("land", "mine", sample, "--home", tmp_path).exit_code == 0


def test_init_takes_labels_that_yaml_would_read_as_something_else(tmp_path: Path):
    """A label "no" or "1" stays a string."""
    assert run("init", "s", "--labels", "yes, no, 1", "--home", tmp_path).exit_code == 0

    assert load_contract(tmp_path / "data_contracts" / "s.odcs.yaml").labels == ("yes", "no", "1")


def test_init_does_not_overwrite_unless_told_to(home: Path):
    """A stream file holds decisions; nothing is written, nothing lost."""
    path = home / "streams" / "reviews.toml"
    path.write_text("mine")

    refused = run("init", "reviews", "--home", home)
    assert (refused.exit_code, path.read_text()) == (1, "mine")
    assert "--force" in refused.stderr

    assert run("init", "reviews", "--home", home, "--force").exit_code == 0
    assert path.read_text() != "mine"


def test_land_makes_a_batch_that_is_there(home: Path):
    """The answer names the batch's folder, which holds a manifest."""
    result = run("land", "reviews", csv_of(home / "a.csv"), "--home", home, "--json",
                 "--batch-id", "2026-01-07")  # fmt: skip

    facts = json.loads(result.stdout)
    assert (facts["batch"], facts["rows"]) == ("2026-01-07", 30)
    assert (Path(facts["folder"]) / "_manifest.json").exists()
    assert Path(facts["folder"]).parent == (home / "landing" / "reviews").resolve()


def test_a_file_that_breaks_the_contract_is_not_landed(home: Path):
    """The reasons are shown; with --no-validate the round's quarantine shows them instead."""
    bad = csv_of(home / "bad.csv", label="furious")

    refused = run("land", "reviews", bad, "--home", home)
    assert refused.exit_code == 1
    assert "furious" in refused.stderr
    assert not list((home / "landing").rglob("_manifest.json"))

    assert run("land", "reviews", bad, "--home", home, "--no-validate").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["land", "review", "x.csv"], "Did you mean 'reviews'?"),
        (["land", "reviews", "nowhere.csv"], "nowhere.csv"),
        (["round", "review"], "Did you mean 'reviews'?"),
        (["history", "review"], "Did you mean 'reviews'?"),
        (["predict", "reviews"], "--file"),
        (["init", "no/slash"], "letters, digits"),
        (["init", "one", "--labels", "only"], "two or more"),
    ],
)
def test_an_error_says_what_to_do_and_shows_no_traceback(
    home: Path, arguments: list[str], says: str
):
    """One panel on stderr, exit code 1, nothing on stdout."""
    result = run(*arguments, "--home", home)

    assert result.exit_code == 1
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_debug_shows_where_an_error_comes_from(home: Path):
    """--debug lets the exception through."""
    result = run("--debug", "history", "review", "--home", home)

    assert type(result.exception).__name__ == "StreamFileError"


def test_a_stream_file_with_a_typo_is_named_with_the_right_key(home: Path):
    """`kl_wieght` must not train for months."""
    path = home / "streams" / "reviews.toml"
    path.write_text(path.read_text().replace("kl_weight", "kl_wieght"))

    result = run("land", "reviews", csv_of(home / "a.csv"), "--home", home)

    assert result.exit_code == 1
    assert "kl_weight" in result.stderr


def test_an_address_that_does_not_answer_is_named(home: Path, monkeypatch: pytest.MonkeyPatch):
    """A dead PREFECT_API_URL is the reader's to mend: nothing is started instead."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")

    result = run("round", "reviews", "--home", home)

    assert result.exit_code == 1
    assert "http://127.0.0.1:9/api" in result.stderr


def test_doctor_compares_versions_and_reads_contracts(home: Path):
    """Without servers it takes a second; a broken stream file fails it."""
    well = run("doctor", "--no-servers", "--home", home, "--json")
    checks = {check["name"]: check for check in json.loads(well.stdout)}
    assert checks["sqlalchemy"]["well"]
    assert checks["stream reviews"]["detail"] == "labels negative, positive"

    (home / "streams" / "reviews.toml").write_text("name = ")
    broken = run("doctor", "--no-servers", "--home", home, "--json")
    assert broken.exit_code == 1
    assert not {c["name"]: c for c in json.loads(broken.stdout)}["stream reviews"]["well"]


def test_status_of_a_home_without_streams_says_how_to_begin(tmp_path: Path):
    """A newcomer is told the first command."""
    assert "bhpeft init NAME" in run("status", "--home", tmp_path).stdout

"""Ask a stream's champion, or another version: whatever its task answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.reviewing import chosen_version
from bhpeft.cli.terminal import HERE, Home, Json, StreamName, show_json, show_table
from bhpeft.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from bhpeft.learning.predict import Predictor
    from bhpeft.stream import Stream


@dataclass(frozen=True)
class Asked:
    """What a version is asked: texts, and the options of each where it chooses among some."""

    texts: list[str]
    options: list[list[str]] | None = None


def predict(
    stream: StreamName,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts.", show_default=False)] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="One of the options of each question; again for the next."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="A file instead: one text a line, or a table as for `land`."),
    ] = None,
    version: Annotated[int, typer.Option(help="A version; by default the champion.")] = 0,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Predict what STREAM's task answers, with how sure that is (nats), or abstain."""
    from tempfile import TemporaryDirectory

    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    asked = _asked(texts or [], option or [], file, config)
    with connected(home, prefect=False), TemporaryDirectory() as folder:
        registry = Registry(config.tracking_uri)
        chosen = chosen_version(registry, config, version)
        where = registry.download(chosen, Path(folder))
        from bhpeft.learning.predict import Predictor

        frame = _answered(Predictor.load(where), asked)
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    if as_json:
        show_json({"stream": config.name, "version": chosen.number, "predictions": rows})
        return
    heads = [str(name).replace("_", " ") for name in frame.columns]
    show_table(f"{chosen}", heads, [[_shown(value) for value in row.values()] for row in rows])


def _answered(predictor: Predictor, asked: Asked) -> pd.DataFrame:
    """Return a version's answers beside what it was asked."""
    if asked.options is None:
        frame = predictor.predict(asked.texts)
    else:
        frame = predictor.choose(asked.texts, asked.options)
        frame.insert(0, "options", asked.options)
    frame.insert(0, "text", asked.texts)
    return frame


def _shown(value: Any) -> str:
    """Return a cell of the table: numbers in four figures, long texts cut."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " | ".join(map(str, value))
    return str(value)[:60]


def _asked(texts: list[str], options: list[str], file: Path | None, stream: Stream) -> Asked:
    """Return what is to be predicted, from the command line and from a file.

    Raises:
        ConfigError: there is nothing, or options are missing or not asked for.
    """
    chooses = bool(stream.task.value.needs.options)
    if options and not chooses:
        raise ConfigError(
            f"The stream {stream.name!r} has no options to choose from",
            found=f"--option with the task {stream.task.name}",
        )
    if texts and chooses and len(options) < 2:
        raise ConfigError(
            "A question needs options", found=f"{len(options)}", expected="--option twice at least"
        )
    read = _read(file, stream) if file else Asked([], [] if chooses else None)
    if not texts and not read.texts:
        raise ConfigError("There is nothing to predict", expected="TEXT … or --file FILE")
    if read.options is None:
        return Asked([*texts, *read.texts])
    return Asked([*texts, *read.texts], [options] * len(texts) + read.options)


def _read(file: Path, stream: Stream) -> Asked:
    if not file.is_file():
        raise ConfigError(f"There is no file {file}")
    chooses = bool(stream.task.value.needs.options)
    if file.suffix.lower() not in {".txt", ""}:
        return _read_table(file, stream)
    if chooses:
        raise ConfigError(
            f"{file} has no options", expected="a table with the contract's question and options"
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    return Asked([line for line in lines if line.strip()])


def _read_table(file: Path, stream: Stream) -> Asked:
    import pandas as pd

    from bhpeft.data.contract import load_contract
    from bhpeft.data.options import options_in
    from bhpeft.tasks.choice import is_there

    contract = load_contract(stream.contract, stream.task.value.needs)
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        frame = pd.read_parquet(file)
    elif suffix == ".csv":
        frame = pd.read_csv(file)
    else:
        frame = pd.read_json(file, lines=True)
    for column in (contract.text, *contract.options):
        if column not in frame:
            raise ConfigError(
                f"{file} has no column {column!r}",
                found=", ".join(map(str, frame.columns)),
                expected="the contract's columns of what is asked",
            )
    texts = [str(text) for text in frame[contract.text]]
    if not contract.options:
        return Asked(texts)
    lists = options_in(frame, contract)
    return Asked(texts, [[one for one in row if is_there(one)] for row in lists])

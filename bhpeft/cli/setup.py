"""Create a stream's files, and land its batches."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bhpeft.cli.terminal import HERE, Home, Json, StreamName, say, show_json
from bhpeft.errors import ConfigError


def init(
    stream: StreamName,
    sample: Annotated[
        Path | None,
        typer.Option(help="A file of labelled rows to infer the contract from.", dir_okay=False),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="The labels, with commas between, if the sample does not show all.")
    ] = "",
    text: Annotated[str, typer.Option(help="The text's (or question's) column.")] = "",
    label: Annotated[str, typer.Option(help="The label's (or number's, or answer's) column.")] = "",
    task: Annotated[
        str, typer.Option(help="classification, regression, choice, causal_lm, or yours.")
    ] = "classification",
    home: Home = HERE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
) -> None:
    """Write a commented stream file and data contract for STREAM."""
    from bhpeft.data.infer import infer_contract
    from bhpeft.stream import NAME
    from bhpeft.stream_template import stream_file
    from bhpeft.tasks import task as task_of

    if not NAME.fullmatch(stream):
        raise ConfigError(
            f"{stream!r} cannot be a stream's name",
            expected="letters, digits, - and _, at most 64 of them",
        )
    known = tuple(name.strip() for name in labels.split(",") if name.strip())
    if labels and len(set(known)) < 2:
        raise ConfigError(
            "A stream needs labels to tell apart", found=labels, expected="two or more, with commas"
        )
    contract_name = f"data_contracts/{stream}.odcs.yaml"
    files = {
        home / contract_name: infer_contract(
            sample, stream, text or None, label or None, known, task_of(task).needs
        ),
        home / "streams" / f"{stream}.toml": stream_file(stream, contract_name, task),
    }
    _refuse_to_overwrite(list(files), force)
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        say(f"wrote {path}")
    say(f"Next: read both, then land a batch: [bold]bhpeft land {stream} FILE[/bold]")


def land(
    stream: StreamName,
    file: Annotated[
        Path, typer.Argument(help="A Parquet, CSV or JSON-lines file.", show_default=False)
    ],
    batch_id: Annotated[
        str, typer.Option(help="The batch's id; by default its event time and digest.")
    ] = "",
    event_time: Annotated[
        datetime | None, typer.Option(help="When the data happened (UTC).", show_default=False)
    ] = None,
    validate: Annotated[
        bool, typer.Option(help="Check the contract first; a bad file is then not landed.")
    ] = True,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Land FILE as a batch of STREAM: all of it, checked, or nothing."""
    from bhpeft.data.contract import load_contract
    from bhpeft.data.land import land as land_file
    from bhpeft.rounds.backlog import landing_of
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    batch = land_file(
        file,
        landing_of(config),
        load_contract(config.contract, config.task.value.needs),
        config.name,
        batch_id=batch_id or None,
        event_time=event_time,
        validate=validate,
    )
    from flows.events import tell_landed

    told = tell_landed(home, config.name, batch.batch_id, batch.rows)
    if as_json:
        facts = {"told": told, "batch": batch.batch_id, "rows": batch.rows, "digest": batch.digest}
        show_json({"stream": config.name, **facts, "folder": batch.address})
    else:
        say(f"landed [bold]{batch.batch_id}[/bold]: {batch.rows} rows in {batch.address}")
        if told:
            say("The stream's watch has been told.")


def _refuse_to_overwrite(paths: list[Path], force: bool) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise ConfigError(
            "Nothing was written",
            found=f"{' and '.join(there)} already",
            expected="a new stream",
            remedy="Choose another name, or overwrite them with --force.",
        )

"""Create a stream's files, and land its batches."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from bhpeft.cli.terminal import HERE, Home, Json, StreamName, say, show_json
from bhpeft.errors import ConfigError

# What a contract needs at least; `bhpeft init --sample` infers a fuller one.
CONTRACT = """\
# What a batch of {name} must look like. The Open Data Contract Standard's format;
# `bhpeft.role` says which column is the text, the label, a key or a slice. Guide: docs/contract.md
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:{name}
name: {name}
version: 1.0.0
status: active
schema:
  - name: {name}
    properties:
      - name: text
        logicalType: string
        required: true
        logicalTypeOptions: {{minLength: 1, maxLength: 8000}} # longer texts break the contract
        customProperties: [{{property: bhpeft.role, value: text}}]
      - name: label
        logicalType: string
        required: true
        customProperties: [{{property: bhpeft.role, value: label}}]
        quality: # the labels, in the order the model knows them; a new one means a new stream
          - type: library
            metric: invalidValues
            arguments: {{validValues: [{labels}]}}
            mustBe: 0
    quality:
      - {{type: library, metric: rowCount, mustBeGreaterThan: 20}} # fewer rows teach nothing
"""


def init(
    stream: StreamName,
    sample: Annotated[
        Path | None,
        typer.Option(help="A file of labelled rows to infer the contract from.", dir_okay=False),
    ] = None,
    labels: Annotated[
        str, typer.Option(help="The labels, with commas between, where there is no sample.")
    ] = "negative,positive",
    home: Home = HERE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what exists.")] = False,
) -> None:
    """Write a commented stream file and data contract for STREAM."""
    from bhpeft.stream import NAME, TEMPLATE

    if not NAME.fullmatch(stream):
        raise ConfigError(
            f"{stream!r} cannot be a stream's name",
            expected="letters, digits, - and _, at most 64 of them",
        )
    contract_name = f"data_contracts/{stream}.odcs.yaml"
    files = {
        home / contract_name: _contract_text(stream, sample, labels),
        home / "streams" / f"{stream}.toml": TEMPLATE.format(name=stream, contract=contract_name),
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
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    batch = land_file(
        file,
        config.landing,
        load_contract(config.contract),
        config.name,
        batch_id=batch_id or None,
        event_time=event_time,
        validate=validate,
    )
    if as_json:
        facts = {"batch": batch.batch_id, "rows": batch.rows, "digest": batch.digest}
        show_json({"stream": config.name, **facts, "folder": batch.folder})
    else:
        say(f"landed [bold]{batch.batch_id}[/bold]: {batch.rows} rows in {batch.folder}")


def _contract_text(stream: str, sample: Path | None, labels: str) -> str:
    if sample:
        from bhpeft.data.infer import infer_contract

        return infer_contract(sample, stream)
    names = [label.strip() for label in labels.split(",") if label.strip()]
    if len(set(names)) < 2:
        raise ConfigError(
            "A stream needs labels to tell apart",
            found=labels,
            expected="two or more different ones",
            remedy="Give --labels negative,positive or a --sample file.",
        )
    # Quoted, since YAML reads a plain yes or 1 as something else than a string.
    return CONTRACT.format(name=stream, labels=", ".join(f'"{name}"' for name in names))


def _refuse_to_overwrite(paths: list[Path], force: bool) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise ConfigError(
            "Nothing was written",
            found=f"{' and '.join(there)} already",
            expected="a new stream",
            remedy="Choose another name, or overwrite them with --force.",
        )

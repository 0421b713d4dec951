"""Hand a version over to Hugging Face PEFT, and to whatever serves its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.reviewing import chosen_version
from bhpeft.cli.terminal import HERE, Home, Json, StreamName, say, show_json


def export(
    stream: StreamName,
    to: Annotated[Path, typer.Option(help="The folder to write.", show_default=False)],
    version: Annotated[int, typer.Option(help="A version; by default the champion.")] = 0,
    draws: Annotated[int, typer.Option(min=0, help="Draws, each in a folder within.")] = 0,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Write STREAM's LoRA as Hugging Face PEFT checkpoints: the posterior's mean, and draws."""
    from tempfile import TemporaryDirectory

    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    with connected(home, prefect=False), TemporaryDirectory() as folder:
        registry = Registry(config.tracking_uri)
        chosen = chosen_version(registry, config, version)
        where = registry.download(chosen, Path(folder))
        from bhpeft.exchange import export_peft
        from bhpeft.learning.state import AdapterState

        export_peft(AdapterState.load(where), to, draws)
    if as_json:
        facts = {"stream": config.name, "version": chosen.number, "folder": str(to.resolve())}
        show_json(facts | {"draws": draws})
        return
    say(f"{chosen} → [bold]{to}[/bold]")
    say("Load it with: peft.PeftModel.from_pretrained(base, folder); the head lies beside it.")

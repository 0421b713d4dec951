"""Tell the whole story on real data: land, learn, judge, promote, roll back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bhpeft.cli.connection import quieten
from bhpeft.cli.terminal import interruptible


def demo(
    home: Annotated[Path, typer.Option(help="Folder for the demo's streams and servers.")] = Path(
        ".demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed tells the same story.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the story as JSON too.", dir_okay=False)
    ] = None,
) -> None:
    """Run the main job on real weights and real sentences, with both servers."""
    quieten()

    from rich.console import Console

    from flows.demo import run_demo

    with interruptible():
        run_demo(
            home=home,
            seed=seed,
            json_file=json_file,
            console=Console(width=None if sys.stdout.isatty() else 160),
        )

"""Run rounds now: one, or all that are pending in a stream."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.terminal import (
    HERE,
    By,
    Home,
    Json,
    StreamName,
    progress_bars,
    say,
    show_json,
    show_table,
    user,
)
from bhpeft.errors import BhpeftError


def round_now(
    stream: StreamName,
    batch: Annotated[str, typer.Option(help="Batch id; by default the oldest pending.")] = "",
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Run one round now: learn the oldest pending batch of STREAM."""
    from bhpeft.stream import find_stream

    find_stream(stream, home)  # a wrong name should not start servers first
    asked = {"stream": stream, "batch": batch or None, "home": str(home.resolve())}
    with connected(home):
        from flows.round import round_flow, showing

        with progress_bars() as progress, showing(progress):
            state = round_flow(**asked, by=user(by), return_state=True)
        report(state, as_json)


def watch(stream: StreamName, home: Home = HERE, by: By = "", as_json: Json = False) -> None:
    """Run rounds of STREAM until nothing is pending, as its schedule would."""
    from bhpeft.stream import find_stream

    find_stream(stream, home)
    asked = {"stream": stream, "home": str(home.resolve())}
    with connected(home):
        from flows.round import showing
        from flows.watch import watch as watch_flow

        with progress_bars() as progress, showing(progress):
            state = watch_flow(**asked, by=user(by), return_state=True)
        report(state, as_json)


def report(state: Any, as_json: bool) -> None:
    """Print how a flow ended; raise its error; exit with 1 when it failed."""
    result = state.data.result if hasattr(state.data, "result") else None
    if isinstance(result, BhpeftError):
        raise result
    verdicts = getattr(result, "verdicts", [])
    if as_json:
        from dataclasses import asdict, is_dataclass

        facts = asdict(result) if is_dataclass(result) and not isinstance(result, type) else {}
        if isinstance(result, dict):
            facts = {"batches": result}
        show_json({"state": state.name, "message": state.message, **facts})
    else:
        say(f"[bold]{state.name}[/bold]  {state.message}")
        if verdicts:
            rows = [
                [v.get(k) for k in ("gate", "outcome", "value", "limit", "reason")]
                for v in verdicts
            ]
            show_table("Gates", ("gate", "outcome", "value", "limit", "reason"), rows)
        if link := getattr(result, "run_url", None):
            say(f"MLflow run: {link}")
    if state.is_failed() or state.is_crashed():
        raise typer.Exit(1)

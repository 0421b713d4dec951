"""Decide: approve or reject a held candidate, move a champion back, let a batch out again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.running import report
from bhpeft.cli.terminal import (
    HERE,
    By,
    Home,
    Json,
    StreamName,
    progress_bars,
    say,
    show_json,
    user,
)
from bhpeft.errors import ConfigError

Without = Annotated[
    list[str] | None, typer.Option(help="A bad batch's id; may be given again.", show_default=False)
]
VersionNumber = Annotated[int, typer.Argument(help="Number of the version.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; kept in the log.", show_default=False)]


def approve(
    stream: StreamName,
    version: VersionNumber,
    reason: Reason,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Make a held VERSION of STREAM its champion."""
    move = _decided(stream, version, reason, home, by, approve=True)
    if as_json:
        show_json(asdict(move))
        return
    before = "none" if move.from_version is None else f"version {move.from_version}"
    say(f"champion of {stream}: {before} → [bold]version {move.to_version}[/bold]")


def reject(
    stream: StreamName,
    version: VersionNumber,
    reason: Reason,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Refuse a held VERSION of STREAM, and its batch with it."""
    move = _decided(stream, version, reason, home, by, approve=False)
    if as_json:
        show_json(asdict(move))
        return
    say(f"version {version} of {stream} is [bold]refused[/bold]; the champion stays.")
    say(f"To have its batch learned anyway: bhpeft release {stream} BATCH --reason …")


def rollback(
    stream: StreamName,
    to: Annotated[int, typer.Option(help="The version to go back to.", show_default=False)],
    reason: Reason,
    again: Annotated[
        bool,
        typer.Option(
            "--learn-again", help="Make the batches learned since pending again, not refused."
        ),
    ] = False,
    replayed: Annotated[
        bool,
        typer.Option(
            "--replay", help="Learn those since again now, but the bad one right after it."
        ),
    ] = False,
    without: Without = None,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Make an older version of STREAM its champion; the next round starts from there."""
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    _check_reason("rollback", reason)
    if replayed or without:
        _replay(stream, to, without, reason, home, by, as_json)
        return
    with connected(home):
        from flows.rollback import rollback as rollback_flow

        state = rollback_flow(
            stream=stream,
            to=to,
            reason=reason,
            by=user(by),
            home=str(home.resolve()),
            learned_since="pending" if again else "refuse",
            return_state=True,
        )
        move: Any = state.result()
    if as_json:
        show_json(asdict(move))
    else:
        say(
            f"champion of {config.name}: version {move.from_version} → [bold]version "
            f"{move.to_version}[/bold]"
        )


def replay(
    stream: StreamName,
    reason: Reason,
    without: Without = None,
    start: Annotated[
        int | None,
        typer.Option("--from", help="The last good version; by default, before the first bad one."),
    ] = None,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Rebuild STREAM's chain without bad batches: go back, learn the others again in order."""
    from bhpeft.stream import find_stream

    find_stream(stream, home)
    _check_reason("replay", reason)
    _replay(stream, start, without, reason, home, by, as_json)


def release(
    stream: StreamName,
    batch: Annotated[str, typer.Argument(help="Its id, or its digest's first letters.")],
    reason: Reason,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Make a BATCH of STREAM that is parked, refused or in quarantine pending again."""
    from bhpeft.registry import Registry
    from bhpeft.rounds import release as release_batch
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    _check_reason("release", reason)
    with connected(home, prefect=False, mlflow=False):
        registry = Registry(config.tracking_uri)
        aside = release_batch(config, batch, registry, by=user(by), reason=reason)
    if as_json:
        show_json(asdict(aside))
    else:
        say(f"[bold]{aside.batch_id}[/bold] was {aside.state} and is pending again.")


def _replay(
    stream: str,
    start: int | None,
    without: list[str] | None,
    reason: str,
    home: Path,
    by: str,
    as_json: bool,
) -> None:
    with connected(home):
        from flows.replay import replay as replay_flow
        from flows.round import showing

        with progress_bars() as progress, showing(progress):
            state = replay_flow(
                stream=stream,
                start=start,
                without=without or [],
                reason=reason,
                by=user(by),
                home=str(home.resolve()),
                return_state=True,
            )
        report(state, as_json)


def _decided(stream: str, version: int, reason: str, home: Path, by: str, approve: bool) -> Any:
    from bhpeft.stream import find_stream

    find_stream(stream, home)  # a wrong name should not start servers first
    _check_reason("decision", reason)
    with connected(home):
        from flows.approval import approve as approve_flow

        state = approve_flow(
            stream=stream,
            version=version,
            reason=reason,
            by=user(by),
            approve=approve,
            home=str(home.resolve()),
            return_state=True,
        )
        return state.result()


def _check_reason(act: str, reason: str) -> None:
    if not reason.strip():
        raise ConfigError(f"A {act} needs a reason", expected="--reason TEXT")

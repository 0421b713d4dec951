"""See what streams have learned and who decided what; ask a champion."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.terminal import (
    HERE,
    Home,
    Json,
    StreamName,
    age,
    say,
    show_json,
    show_table,
    unswept,
    until,
)
from bhpeft.errors import UnknownVersion

if TYPE_CHECKING:
    from datetime import datetime

    from bhpeft.registry import Registry, Version
    from bhpeft.rounds import Glance
    from bhpeft.stream import Stream


def status(
    stream: Annotated[str, typer.Argument(help="Only this one, with what is aside.")] = "",
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Show every stream: champion, what waits, what needs a person, last decision, next look."""
    with unswept():
        _show_status(stream, home, as_json)


def _show_status(stream: str, home: Path, as_json: bool) -> None:
    from bhpeft.rounds import overview
    from bhpeft.stream import all_streams, find_stream

    streams = [find_stream(stream, home)] if stream else all_streams(home)
    if not streams and not as_json:
        say(f"No stream in {home.resolve()}. Create one: [bold]bhpeft init NAME[/bold]")
        return
    with connected(home, prefect=False, mlflow=False):
        coming = _next_runs(home)
        glances = overview(streams)
    if as_json:
        show_json([{**asdict(g), "next_run": coming.get(g.stream)} for g in glances])
        return
    show_table("", STATUS, [_row(glance, coming.get(glance.stream)) for glance in glances])
    aside = glances[0].aside if stream else []
    if aside:
        rows = [(one.batch_id, one.digest[:8], one.state, one.why) for one in aside]
        show_table("Aside", ("batch", "digest", "state", "why"), rows)
        say(f"To have one learned: bhpeft release {stream} BATCH --reason …")


def history(stream: StreamName, home: Home = HERE, as_json: Json = False) -> None:
    """Show who moved the champion of STREAM, when and why, and every version learned."""
    from bhpeft.registry import Registry
    from bhpeft.stream import find_stream

    config = find_stream(stream, home)
    with connected(home, prefect=False, mlflow=False):
        show_history(Registry(config.tracking_uri), config.name, as_json)


def show_history(registry: Registry, name: str, as_json: bool, learned: str = "batches") -> None:
    """Print the moves and the versions of a registered model; `learned` heads what is in them."""
    moves, versions = registry.history(name), registry.versions(name)
    if as_json:
        show_json({"moves": [asdict(m) for m in moves], "versions": [asdict(v) for v in versions]})
        return
    show_table(
        "Moves",
        ("when (UTC)", "who", "what", "from", "to", "why"),
        [
            (f"{m.when:%Y-%m-%d %H:%M:%S}", m.who, m.kind, m.from_version, m.to_version, m.why)
            for m in moves
        ],
    )
    show_table(
        "Versions",
        ("version", "prior", learned, "decision", "registered (UTC)", "alias"),
        [
            (
                v.number,
                v.parent,
                ", ".join(v.batch_ids),
                v.decision,
                f"{v.created:%Y-%m-%d %H:%M:%S}",
                ", ".join(v.aliases) or None,
            )
            for v in versions
        ],
    )


STATUS = (
    "stream",
    "champion",
    "age",
    "pending",
    "last decision",
    "needs a person",
    "aside",
    "next look",
)


def _row(glance: Glance, coming: datetime | None) -> tuple[object, ...]:
    """Return a stream's line in the table."""
    last = f"v{glance.last_version} {glance.last_decision}" if glance.last_version else None
    asked = [f"v{number} held" for number in glance.held]
    counts = glance.aside_counts
    if parked := counts.pop("parked", 0):
        asked.append(f"{parked} parked")
    if glance.stale:
        asked.append("batch overdue")
    return (
        glance.stream,
        f"v{glance.champion}" if glance.champion else None,
        age(glance.since),
        f"{len(glance.pending)}" + (f" ({glance.failing})" if glance.failing else ""),
        last,
        ", ".join(asked) or None,
        ", ".join(f"{count} {state}" for state, count in counts.items()) or None,
        until(coming),
    )


def _next_runs(home: Path) -> dict[str, Any]:
    """Return each stream's next scheduled look, or nothing where no Prefect server runs."""
    import os

    from flows.processes import answers

    url = os.environ.get("PREFECT_API_URL", "")
    if not url or not answers(f"{url.rstrip('/')}/health"):
        return {}
    from flows.deployments import next_runs

    return next_runs(home)


def chosen_version(registry: Registry, stream: Stream, number: int) -> Version:
    """Return the version of that number, or for 0 the champion.

    Raises:
        UnknownVersion: there is none.
    """
    if number:
        return registry.version(stream.name, number)
    champion = registry.champion(stream.name)
    if champion is None:
        raise UnknownVersion(
            f"Stream {stream.name!r} has no champion yet",
            expected="a version that passed its gates",
            remedy=f"Land a batch and run: bhpeft round {stream.name}",
        )
    return champion

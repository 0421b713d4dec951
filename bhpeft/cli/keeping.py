"""Keep a registry small: remove what nothing in use needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.terminal import HERE, By, Home, Json, say, show_json, user

if TYPE_CHECKING:
    from bhpeft.registry import Waste


def gc(
    stream: Annotated[str, typer.Argument(help="Only this stream; by default all.")] = "",
    keep: Annotated[
        int, typer.Option(min=0, help="Versions that stay whole beside those in use.")
    ] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Remove versions and files that nothing in use, and no rollback still offered, needs."""
    from bhpeft.registry import Registry, waste
    from bhpeft.rounds.leftovers import leftovers, sweep
    from bhpeft.stream import all_streams, find_stream

    streams = [find_stream(stream, home)] if stream else all_streams(home)
    found: dict[str, Waste] = {}
    left = sorted({path for one in streams for path in leftovers(one)})
    with connected(home, prefect=not dry_run):
        for one in streams:
            if dry_run:
                found[one.name] = waste(Registry(one.tracking_uri).book(one.name), keep)
                continue
            from flows.gc import remove_waste

            found[one.name] = remove_waste(one, keep, user(by))
    if not dry_run:
        sweep(left)
    if as_json:
        show_json({name: _facts(gone) | {"dry_run": dry_run} for name, gone in found.items()})
        return
    for name, gone in found.items():
        say(f"{name}: {'would remove' if dry_run else 'removed'} {gone}")
    if left:
        say(f"{'would sweep' if dry_run else 'swept'} {len(left)} leftovers of killed processes")


def _facts(gone: Waste) -> dict[str, Any]:
    return {
        "stripped": [version.number for version in gone.stripped],
        "deleted": [version.number for version in gone.deleted],
    }

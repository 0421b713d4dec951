"""Say whether this installation can work: versions, files, servers, schedules, aliases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.terminal import HERE, Home, Json, say, show_json
from bhpeft.errors import BhpeftError

if TYPE_CHECKING:
    from bhpeft.stream import Stream


@dataclass(frozen=True)
class Check:
    """One thing looked at: whether it is well, and what was seen or what to do."""

    name: str
    well: bool
    detail: str


def doctor(
    home: Home = HERE,
    servers: Annotated[
        bool, typer.Option(help="Also start or ask the servers, and await a scheduled run.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check versions, streams, servers, that a scheduled run really appears, and aliases."""
    checks: list[Check] = []
    for check in _all_checks(home, servers):
        checks.append(check)
        if not as_json:
            mark = "[green]✓[/green]" if check.well else "[red]✗[/red]"
            say(f"{mark} {check.name}: {check.detail}")
    if as_json:
        show_json([asdict(check) for check in checks])
    if not all(check.well for check in checks):
        raise typer.Exit(1)


def _all_checks(home: Path, servers: bool) -> Iterator[Check]:
    yield from versions()
    streams, problems = _streams(home)
    yield from problems
    if not servers:
        return
    try:
        with connected(home):
            yield Check("servers", True, "Prefect and MLflow answer")
            yield _attempt("schedule", _scheduled_run)
            for stream in streams:
                yield _attempt(f"aliases of {stream.name}", partial(_aliases, stream))
    except BhpeftError as error:
        yield Check("servers", False, error.message)


def versions() -> Iterator[Check]:
    """Compare each installed package with what bhpeft asks for."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    for wanted in map(Requirement, requires("bhpeft") or []):
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Check(wanted.name, False, f"is not installed; wanted {wanted.specifier}")
            continue
        well = wanted.specifier.contains(found, prereleases=True)
        remedy = "" if well else "; reinstall with -c constraints.txt"
        yield Check(wanted.name, well, f"{found} (wanted {wanted.specifier}{remedy})")


def _streams(home: Path) -> tuple[list[Stream], list[Check]]:
    """Read every stream and its contract; return the readable ones and what was seen."""
    from bhpeft.data.contract import load_contract
    from bhpeft.stream import read_stream, stream_files

    good, checks = [], []
    for name, path in sorted(stream_files(home).items()):
        try:
            stream = read_stream(path, home)
            contract = load_contract(stream.contract, stream.task.value.needs)
        except BhpeftError as error:
            checks.append(Check(f"stream {name}", False, error.message))
            continue
        good.append(stream)
        checks.append(Check(f"stream {name}", True, f"labels {', '.join(contract.labels)}"))
    return good, checks or [Check("streams", True, f"none in {home.resolve()} yet")]


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except BhpeftError as error:
        return Check(name, False, error.message)


def _scheduled_run() -> str:
    from flows.deployments import await_scheduled_run

    return f"a run appeared {await_scheduled_run():.0f} s after its schedule was set"


def _aliases(stream: Stream) -> str:
    """Check that the champion is one the log knows of, and that its chain is whole."""
    from bhpeft.errors import RegistryError
    from bhpeft.registry import Registry

    registry = Registry(stream.tracking_uri)
    champion = registry.champion(stream.name)
    moves = [move for move in registry.history(stream.name) if move.moves_champion]
    logged = moves[-1].to_version if moves else None
    actual = champion.number if champion else None
    if logged != actual:
        raise RegistryError(
            "The champion alias is not where the promotion log put it",
            found=f"version {actual}",
            expected=f"version {logged}",
            remedy=f"The next round repairs it; or: bhpeft rollback {stream.name} --to {logged}",
        )
    if champion is None:
        return "no champion yet"
    chain = registry.lineage(stream.name, champion.number)
    return f"champion is version {actual}, learned in {len(chain)} rounds"

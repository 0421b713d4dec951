"""What the streams of a group have in common: see it, move it back, make it follow."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from bhpeft.cli.connection import connected
from bhpeft.cli.reviewing import show_history
from bhpeft.cli.terminal import HERE, By, Home, Json, say, show_json, show_table, user
from bhpeft.errors import ConfigError, UnknownVersion

app = typer.Typer(no_args_is_help=True, help="The population prior of a group of streams.")

Group = Annotated[str, typer.Argument(help="Name of the group.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; kept in the log.", show_default=False)]


@app.command()
def show(
    group: Group,
    version: Annotated[int, typer.Option(help="A version; by default the one in use.")] = 0,
    home: Home = HERE,
    as_json: Json = False,
) -> None:
    """Show what GROUP's population is made of, and how alike its streams are: τ by block."""
    from bhpeft.learning.population import PopulationState
    from bhpeft.registry import Registry, population_name
    from bhpeft.rounds.population import group_registry

    config, name = group_registry(group, home), population_name(group)
    with connected(home, prefect=False, mlflow=False), TemporaryDirectory() as folder:
        registry = Registry(config.tracking_uri)
        found = registry.version(name, version) if version else registry.champion(name)
        if found is None:
            raise UnknownVersion(
                f"The group {group!r} has no population yet",
                expected="a promoted version of one of its streams",
            )
        state = PopulationState.load(registry.download(found, Path(folder, "state")))
    facts = {
        "group": group,
        "version": found.number,
        "updates": state.known.updates,
        "gauge": state.gauge,
        "task": state.task,
        "labels": state.labels,
        "tau": dict(state.known.tau),
        "members": [asdict(member) for member in state.members],
    }
    if as_json:
        show_json(facts)
        return
    say(f"population of [bold]{group}[/bold]: version {found.number}, gauge {state.gauge[:12]}")
    members = [(one.stream, f"v{one.version}", one.digest[:12]) for one in state.members]
    show_table("Made of", ("stream", "version", "tensors"), members)
    blocks = [(block, f"{tau:.4g}", f"{tau**-0.5:.3g}") for block, tau in state.known.tau.items()]
    show_table("How alike they are", ("block", "τ", "σ = 1/√τ"), blocks)


@app.command()
def history(group: Group, home: Home = HERE, as_json: Json = False) -> None:
    """Show who moved GROUP's population, when and why, and every version of it."""
    from bhpeft.registry import Registry, population_name
    from bhpeft.rounds.population import group_registry

    config = group_registry(group, home)
    with connected(home, prefect=False, mlflow=False):
        show_history(Registry(config.tracking_uri), population_name(group), as_json, "posteriors")


@app.command()
def rollback(
    group: Group,
    to: Annotated[int, typer.Option(help="The version to go back to.", show_default=False)],
    reason: Reason,
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Make an older version GROUP's base prior; posteriors that entered since stay out."""
    move = _moved(group, to, reason, home, by)
    if as_json:
        show_json(asdict(move))
        return
    say(
        f"population of {group}: version {move.from_version} → [bold]version "
        f"{move.to_version}[/bold]"
    )


@app.command()
def follow(
    group: Group,
    reason: Reason = "asked for by hand",
    home: Home = HERE,
    by: By = "",
    as_json: Json = False,
) -> None:
    """Make GROUP's population agree with the champions now; rounds do so by themselves."""
    made = _moved(group, None, reason, home, by)
    if as_json:
        show_json({"group": group, "version": made.number if made else None})
        return
    say(f"population of {group}: " + (f"version {made.number}" if made else "none yet"))


def _moved(group: str, to: int | None, reason: str, home: Path, by: str) -> Any:
    from bhpeft.rounds.population import group_registry

    group_registry(group, home)  # a wrong name should not start servers first
    if not reason.strip():
        raise ConfigError("A move of a population needs a reason", expected="--reason TEXT")
    with connected(home):
        from flows.population import population

        state = population(
            group=group,
            reason=reason,
            by=user(by),
            to=to,
            home=str(home.resolve()),
            return_state=True,
        )
        return state.result()

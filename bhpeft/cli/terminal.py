"""What the commands share in front of a person: options, output, and errors without tracebacks."""

from __future__ import annotations

import gc
import getpass
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bhpeft.errors import BhpeftError

Home = Annotated[
    Path,
    typer.Option(
        envvar="BHPEFT_HOME",
        help="Folder of the streams, contracts, landing zone and servers' data.",
        file_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts, nothing else.")]
StreamName = Annotated[str, typer.Argument(help="Name of the stream.", show_default=False)]
By = Annotated[
    str,
    typer.Option(
        envvar="BHPEFT_USER", help="Who decides; by default MLflow's account, else the OS user."
    ),
]
HERE = Path()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end the scope as Ctrl-C does: what was started in it ends with it."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class ClearErrors(TyperGroup):
    """Show errors raised on purpose as a few clear lines, and exit with code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors of bhpeft's own tree end in one red panel on stderr."""
        try:
            return super().invoke(ctx)
        except BhpeftError as error:
            if ctx.params.get("debug"):
                raise
            show_error(error)
            raise typer.Exit(1) from error


@contextmanager
def unswept() -> Iterator[None]:
    """Leave garbage lie for the scope: for a command that reads much and ends.

    What it reads stays until it is printed, so that the sweeps find nothing, time and again: a
    third of all the time of `status` over 500 streams.
    """
    sweeping = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if sweeping:
            gc.enable()


def show_error(error: BhpeftError) -> None:
    """Print what was found, what was expected and what to do; one line where nobody watches."""
    if not sys.stderr.isatty():
        # A log or a script's pipe: no frame, and nothing broken over lines.
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    lines = [("", error.what.rstrip(".") + "."), ("found     ", error.found)]
    lines += [("expected  ", error.expected), ("do        ", error.remedy)]
    lines += [("", f"- {reason_line(reason)}") for reason in getattr(error, "reasons", [])[:10]]
    text = Text()
    for head, body in lines:
        if body:
            text.append(head, style="bold").append(f"{body}\n")
    text.rstrip()
    Console(stderr=True).print(
        Panel(text, title=type(error).__name__, title_align="left", border_style="red")
    )


def reason_line(reason: dict[str, Any]) -> str:
    """Return one broken rule of a contract as a line."""
    examples = ", ".join(str(example)[:40] for example in list(reason.get("examples", []))[:3])
    shown = f", such as {examples}" if examples else ""
    return f"{reason.get('column')}: {reason.get('check')} in {reason.get('rows')} rows{shown}"


def say(text: str) -> None:
    """Print one line for a person, with Rich markup."""
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(text)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a callback that shows a bar for each stage it is told of: (stage, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    bars: dict[str, Any] = {}
    columns = ("{task.description:8}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = shown.add_task(stage, total=total)
            shown.update(bars[stage], completed=done, total=total)

        yield tell


def show_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; None is shown as a dash."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, title=title, title_justify="left", header_style="bold")
    for row in rows:
        table.add_row(*("–" if cell is None else str(cell) for cell in row))
    # In a pipe or a log file there is no width to fit into.
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def show_json(data: object) -> None:
    """Print `data` as JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def user(given: str) -> str:
    """Return who decides: the option, the account at the MLflow server, or the OS user."""
    if given := given or os.environ.get("MLFLOW_TRACKING_USERNAME", ""):
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return f"uid {os.getuid()}"


def age(since: datetime | None) -> str:
    """Return how long ago that was, like « 3 min »; empty for None."""
    return "" if since is None else _span(abs((datetime.now(UTC) - since).total_seconds()))


def until(when: datetime | None) -> str | None:
    """Return how far ahead that is, like « in 3 min »."""
    if when is None:
        return None
    ahead = (when - datetime.now(UTC)).total_seconds()
    return "now" if ahead < 1 else f"in {_span(ahead)}"


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def version_and_exit(asked: bool) -> None:
    """Print bhpeft's version and end."""
    if asked:
        from importlib.metadata import version

        typer.echo(version("bhpeft"))
        raise typer.Exit

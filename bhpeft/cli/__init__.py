"""The command `bhpeft`: one file per group of commands, nothing heavy imported before it is needed.

setup.py      init, land              a stream's files and its batches
running.py    round, watch            one round, or all that is pending
serving.py    up, worker, join, …     all streams on their schedules, here or on a fleet
reviewing.py  status, history
predicting.py predict
deciding.py   approve, reject, rollback, replay, release
grouping.py   population              what the streams of a group have in common
keeping.py    gc                      remove what nothing needs any more
exchanging.py export                  a version as a Hugging Face PEFT checkpoint
doctor.py     doctor                  is this installation able to work?
demo.py       demo                    the whole story on real data
"""

from __future__ import annotations

from typing import Annotated

import typer

from bhpeft.cli import (
    deciding,
    demo,
    doctor,
    exchanging,
    grouping,
    keeping,
    predicting,
    reviewing,
    running,
    serving,
    setup,
)
from bhpeft.cli.terminal import ClearErrors, version_and_exit

app = typer.Typer(
    cls=ClearErrors,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    help="Continual learning for LLM adapters: each landed batch updates a Bayesian posterior, "
    "gates decide, every version can be rolled back.",
)


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_and_exit, is_eager=True, help="Show it, exit."),
    ] = False,
) -> None:
    """Read the options that come before the command; `ClearErrors` uses --debug."""


SETUP, WORK, REVIEW = "Set up", "Learn", "Review and decide"

app.command(rich_help_panel=SETUP)(setup.init)
app.command(rich_help_panel=SETUP)(setup.land)
app.command(rich_help_panel=SETUP)(doctor.doctor)
app.command(rich_help_panel=SETUP)(demo.demo)
app.command("round", rich_help_panel=WORK)(running.round_now)
app.command(rich_help_panel=WORK)(running.watch)
app.command(rich_help_panel=WORK)(serving.up)
app.command(rich_help_panel=WORK)(serving.worker)
app.command(rich_help_panel=WORK)(serving.join)
app.command(rich_help_panel=WORK)(serving.ui)
app.command(rich_help_panel=SETUP)(serving.render)
app.command(rich_help_panel=REVIEW)(reviewing.status)
app.command(rich_help_panel=REVIEW)(reviewing.history)
app.command(rich_help_panel=REVIEW)(deciding.approve)
app.command(rich_help_panel=REVIEW)(deciding.reject)
app.command(rich_help_panel=REVIEW)(deciding.rollback)
app.command(rich_help_panel=REVIEW)(deciding.replay)
app.command(rich_help_panel=REVIEW)(deciding.release)
app.command(rich_help_panel=REVIEW)(predicting.predict)
app.command(rich_help_panel=REVIEW)(exchanging.export)
app.command(rich_help_panel=REVIEW)(keeping.gc)
app.add_typer(grouping.app, name="population", rich_help_panel=REVIEW)

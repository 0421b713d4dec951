"""What a person sees of the demo: bars while it works, a line a round, tables at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from bhpeft.rounds import Outcome

COLOURS = {"promoted": "green", "refused": "red", "held": "yellow", "quarantined": "magenta"}
# What was behind each column of the table, in the report's own names.
SHOWN = {"accuracy": "holdout/accuracy", "NLL": "holdout/nll", "ECE": "holdout/ece"}


@dataclass
class Story:
    """What happened so far, in plain data."""

    rounds: list[Outcome] = field(default_factory=list)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)


class Stages:
    """Progress bars for what runs now, and lines for what is done."""

    def __init__(self, progress: Progress):
        self._progress = progress

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(line, highlight=False)

    @contextmanager
    def round(self, batch_id: str) -> Iterator[Callable[[str, int, int], None]]:
        """Give a callback (stage, done, total) that moves one bar a stage of this round."""
        bars: dict[str, Any] = {
            "": self._progress.add_task(f"{batch_id} · checking the batch", total=None)
        }

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                self._progress.remove_task(bars.popitem()[1])
                bars[stage] = self._progress.add_task(f"{batch_id} · {stage}", total=total)
            self._progress.update(bars[stage], completed=done, total=total)

        try:
            yield tell
        finally:
            for bar in bars.values():
                self._progress.remove_task(bar)


@contextmanager
def stages(console: Console) -> Iterator[Stages]:
    """Show progress for the scope."""
    columns = (
        TextColumn("{task.description:28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Stages(progress)


def in_one_line(outcome: Outcome) -> str:
    """Return how a round ended, and why, in one line."""
    colour = COLOURS[outcome.decision]
    version = f" v{outcome.version}" if outcome.version else ""
    return (
        f"[bold]{outcome.batch_id}[/bold] → [{colour}]{outcome.decision}[/{colour}]{version} "
        f"in {outcome.seconds:.0f} s: {outcome.reason}"
    )


def show(story: Story, console: Console, home: str, urls: list[str]) -> None:
    """Print the table of rounds, the predictions, and where to look."""
    console.print()
    console.print(_rounds(story))
    console.print(_predictions(story))
    console.print(
        f"\nEverything is in {home}. To open the MLflow and Prefect pages on it: "
        "[bold]make ui[/bold]\n(in MLflow choose Model training → Models → reviews; a version's "
        "page shows its gates, a run's page its figures and Evidently report)",
        highlight=False,
    )


def as_json(story: Story) -> dict[str, Any]:
    """Return the story as plain data."""
    return {
        "rounds": [
            {
                "batch": outcome.batch_id,
                "version": outcome.version,
                "prior_version": outcome.prior_version,
                "decision": outcome.decision,
                "reason": outcome.reason,
                "drift": outcome.drift,
                "metrics": outcome.metrics,
                "verdicts": outcome.verdicts,
                "seconds": outcome.seconds,
            }
            for outcome in story.rounds
        ],
        "rollbacks": story.rollbacks,
        "predictions": story.predictions,
    }


def _rounds(story: Story) -> Table:
    head = ("batch", "version", "prior", "decision", *SHOWN, "drift", "KL (nats)", "seconds")
    table = Table(*head, title="Rounds", title_justify="left", header_style="bold")
    for outcome in story.rounds:
        colour = COLOURS[outcome.decision]
        table.add_row(
            outcome.batch_id,
            _version(outcome.version),
            _version(outcome.prior_version),
            f"[{colour}]{outcome.decision}[/{colour}]",
            *(_number(outcome.metrics.get(name), 3) for name in SHOWN.values()),
            {True: "yes", False: "no", None: "–"}[outcome.drift],
            _number(outcome.metrics.get("shift/kl_nats"), 0),
            f"{outcome.seconds:.0f}",
        )
    for move in story.rollbacks:
        table.caption = f"rolled back v{move['from']} → v{move['to']}: {move['reason']}"
    return table


def _predictions(story: Story) -> Table:
    head = ("text", "label", "probability", "entropy", "mutual information", "abstain")
    table = Table(*head, title="models:/reviews@champion", title_justify="left")
    for row in story.predictions:
        table.add_row(
            row["text"],
            str(row["label"]),
            *(_number(row[name], 3) for name in ("probability", "entropy", "mutual_information")),
            "yes" if row["abstain"] else "no",
        )
    return table


def _version(number: int | None) -> str:
    return "–" if number is None else f"v{number}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"

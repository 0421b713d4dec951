"""Draw what only one task has: a language model's texts, the options of questions.

A task names its own in `Figures.shown`; each is a function of the round's report that returns a
figure, or None where the report has no numbers for it. To add one: write it, and add a line to
`TASK_FIGURES`, or name it as `package.module:attribute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bhpeft.judgement.drawing import INK, canvas, dress, sides_of
from bhpeft.judgement.report import RoundReport

TaskFigure = Callable[[RoundReport], Figure | None]

# exp of more is no float64.
_MOST_NATS = 700.0
# The width of a bar, two of which stand side by side.
_BAR = 0.38


def texts(report: RoundReport) -> Figure | None:
    """Draw how a token's NLL is spread over the texts, and perplexity by their length."""
    found, told = report.holdout, sides_of(report.holdout)
    if not told[1][1].spread:
        return None
    figure = canvas(9.6, 4.4)
    spread, lengths = figure.subplots(1, 2)
    figure.subplots_adjust(wspace=0.24)
    dress(spread, f"Text by text ({found.rows} rows)", "share of texts below", "NLL a token, nats")
    dress(lengths, "By length", "tokens of a text", "perplexity")
    for name, quality, colour in told:
        if not quality.spread:
            continue
        shares, values = zip(*quality.spread, strict=True)
        line = f"{name}: perplexity {exp(min(quality.nll, _MOST_NATS)):,.1f}"
        spread.plot(shares, values, color=colour, linewidth=2, label=line)
        lengths.plot(
            [part.tokens / part.rows for part in quality.lengths],
            [exp(min(part.nll, _MOST_NATS)) for part in quality.lengths],
            color=colour,
            marker="o",
            markersize=5,
        )
    spread.set_xlim(0.0, 1.0)
    spread.set_ylim(bottom=0.0)
    spread.legend(frameon=False, loc="best")
    lengths.set_ylim(bottom=1.0)
    return figure


def options(report: RoundReport) -> Figure | None:
    """Draw accuracy by options and by the answer's place, the places chosen, and the margin."""
    mine: Any = report.holdout.candidate
    if not mine.by_place:
        return None
    figure = canvas(9.6, 7.6, hspace=0.4)
    (counts, margins), (places, chosen) = figure.subplots(2, 2)
    figure.subplots_adjust(wspace=0.22)
    sides = [side for side in sides_of(report.holdout) if side[1].by_place]
    rows, by_options, by_place = report.holdout.rows, mine.by_options, mine.by_place
    names = [report.labels[one.place] for one in by_place]

    dress(counts, f"By number of options ({rows} rows)", "options (rows)", "accuracy")
    accuracy = [(f"{name}: {q.accuracy:.3f}", _accuracies(q.by_options), c) for name, q, c in sides]
    guesses = [1.0 / one.options for one in by_options]
    _bars(counts, accuracy, guesses, f"a guess: {mine.chance:.3f}")
    counts.set_xticks(range(len(guesses)), [f"{one.options} ({one.rows})" for one in by_options])

    dress(margins, "How decided", "share of rows below", "p(best) − p(second)")
    for name, quality, colour in sides:
        shares, values = zip(*quality.margins, strict=True)
        margins.plot(
            shares, values, color=colour, linewidth=2, label=f"{name}: {quality.margin:.3f}"
        )
    margins.set_xlim(0.0, 1.0)
    margins.set_ylim(0.0, 1.02)
    margins.legend(frameon=False, loc="best")

    dress(places, "Where the right answer stands", "place (rows)", "accuracy")
    _bars(places, [("", _accuracies(q.by_place), colour) for _, q, colour in sides])
    places.set_xticks(
        range(len(names)), [f"{n} ({one.rows})" for n, one in zip(names, by_place, strict=True)]
    )

    dress(chosen, "Which place is chosen", "place", "share of rows")
    said = [("", [one.chosen / rows for one in q.by_place], colour) for _, q, colour in sides]
    _bars(chosen, said, [one.rows / rows for one in by_place], "the right answer stands there")
    chosen.set_xticks(range(len(names)), names)
    return figure


def _accuracies(bins: Sequence[Any]) -> list[float]:
    """Return the accuracies of bins; of one without rows none."""
    return [one.accuracy if one.rows else 0.0 for one in bins]


def _bars(
    axes: Axes,
    sides: Sequence[tuple[str, Sequence[float], str]],
    marks: Sequence[float] = (),
    marked: str = "",
) -> None:
    """Draw bars of each side at 0, 1, …, and a line across each place at its mark."""
    aside = -_BAR / 2 * (len(sides) - 1)
    for at, (told, values, colour) in enumerate(sides):
        places = [place + aside + at * _BAR for place in range(len(values))]
        axes.bar(places, values, width=_BAR, color=colour, label=told or None)
    for place, mark in enumerate(marks):
        label = marked if place == 0 else None
        axes.plot([place - _BAR, place + _BAR], [mark, mark], color=INK, linewidth=1.4, label=label)
    axes.grid(visible=False, axis="x")
    lines = len(axes.get_legend_handles_labels()[1])
    # Shares end at 1; what stands above is the legend's.
    axes.set_ylim(0.0, 1.02 + 0.13 * lines)
    axes.set_yticks([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    if lines:
        axes.legend(frameon=False, loc="upper right")


TASK_FIGURES: Mapping[str, TaskFigure] = {"texts": texts, "options": options}

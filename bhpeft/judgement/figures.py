"""Draw a round: reliability, rejection, what its task has, drift, training, shift, regression sets.

Figures are plain `matplotlib.figure.Figure` objects drawn by Agg: no pyplot, so no window, no
global state, and safe in a server's threads. Only what the report has data for is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from bhpeft.judgement.drawing import (
    ALARM,
    CANDIDATE,
    GRID,
    INK,
    REFERENCE,
    beside,
    canvas,
    dress,
    sides_of,
)
from bhpeft.judgement.figures_task import TASK_FIGURES
from bhpeft.judgement.quality import SetReport
from bhpeft.judgement.report import RoundReport
from bhpeft.plugins import resolve
from bhpeft.tasks import Quality
from bhpeft.tasks.metrics import BINS
from bhpeft.tasks.scored import ReliabilityBin

_DRIFT_AXIS = 4.0
# Bars that stand where the rows are, and not side by side, are thin ones.
_BARS_ACROSS = 80


def figures(report: RoundReport, training: Sequence[Mapping[str, float]] = ()) -> dict[str, Figure]:
    """Return the round's figures by name.

    Args:
        report: the round's report.
        training: one line a logged step: {"step", "loss", "nll", "kl"}.
    """
    drawn: dict[str, Figure] = {}
    if report.holdout.candidate.reliability:
        drawn["reliability"] = reliability(report.holdout)
    if report.holdout.candidate.rejection:
        drawn["rejection"] = rejection(report.holdout)
    drawn |= _of_the_task(report)
    if report.drift is not None and report.drift["columns"]:
        drawn["drift"] = drift(report.drift)
    if training:
        drawn["training"] = training_curve(training)
    if report.posterior.get("kl_by_block"):
        drawn["shift"] = shift(report.posterior["kl_by_block"])
    if any(known.differences for known in report.regression):
        drawn["regression"] = regression(report.regression)
    return drawn


def _of_the_task(report: RoundReport) -> dict[str, Figure]:
    """Return the figures that only the round's task has."""
    found = {}
    for name in report.holdout.figures.shown:
        figure = resolve("figure", name, TASK_FIGURES)(report)
        if figure is not None:
            found[name.rpartition(":")[2]] = figure
    return found


def reliability(found: SetReport) -> Figure:
    """Draw what happened against what each model said, with the number of rows in each bin."""
    told = found.figures
    name_of_error, error = told.calibration or ("", "")
    figure = canvas(6.0, 6.4, hspace=0.08)
    curve, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    dress(curve, f"Reliability on the hold-out ({found.rows} rows)", "", told.happened)
    dress(counts, "", told.said, "rows")
    sides = sides_of(found)
    low, high = _reach([bar for _, quality, _ in sides for bar in quality.reliability])
    ends = (0.0, 1.0) if told.probable else (low, high)
    curve.plot(ends, ends, color=INK, linewidth=0.8, linestyle="--", label="calibrated")
    for name, quality, colour in sides:
        bars = quality.reliability
        if not bars:
            continue
        curve.plot(
            [bar.confidence for bar in bars],
            [bar.accuracy for bar in bars],
            color=colour,
            marker="o",
            markersize=5,
            label=f"{name}: {error} {getattr(quality, name_of_error):.3f}",
        )
        width, aside = 0.45 / BINS, 0.25 / BINS if name == "candidate" else -0.25 / BINS
        if not told.probable:
            width, aside = (high - low) / _BARS_ACROSS, 0.0
        counts.bar(
            [_middle(bar, told.probable) + aside for bar in bars],
            [bar.rows for bar in bars],
            width=width,
            color=colour,
        )
    if told.probable:
        lowest = min(bar.low for _, quality, _ in sides for bar in quality.reliability)
        curve.set_xlim(max(0.0, lowest - 0.02), 1.02)
        curve.set_ylim(-0.02, 1.02)
    low, high = (getattr(found.candidate, f"{name_of_error}_null_{end}") for end in ("low", "high"))
    curve.plot([], [], " ", label=f"chance range {low:.3f}–{high:.3f}")
    curve.legend(frameon=False, loc="lower right")
    return figure


def rejection(found: SetReport) -> Figure:
    """Draw the headline against the share of rows refused for their uncertainty."""
    figure = canvas(6.4, 4.2)
    axes = figure.subplots()
    told = found.figures.headline.told
    title = f"{told[0].upper()}{told[1:]} when the most uncertain are refused"
    dress(axes, title, "share of rows refused", told)
    for name, quality, colour in sides_of(found):
        if quality.rejection:
            shares, kept = zip(*quality.rejection, strict=True)
            axes.plot(shares, kept, color=colour, linewidth=2, label=_at_rejection(name, quality))
    axes.axvline(0.2, color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlim(0.0, 0.9)
    axes.legend(frameon=False, loc="best")
    return figure


def drift(found: Mapping[str, Any]) -> Figure:
    """Draw each column's drift value as a multiple of its threshold."""
    columns = dict(reversed(found["columns"].items()))
    names = [name.replace("_", " ") for name in columns]
    figure = canvas(7.6, 1.3 + 0.42 * len(columns), left=beside(names))
    axes = figure.subplots()
    said = {True: "Drift found", False: "No drift", None: "Drift not evaluable"}[found["drifted"]]
    title = f"{'Extreme drift' if found['extreme'] else said} in the batch"
    dress(axes, title, "value ÷ threshold (less is drift for p-value methods)", "")
    for place, column in enumerate(columns.values()):
        ratio, told = _ratio(column), "not evaluable"
        if ratio is not None:
            told = f"{column['value']:.3g} of {column['threshold']:.3g}   {column['method']}"
        # One wild column must not flatten the others: bars stop at the axis, the text tells.
        drawn = min(ratio or 0.0, _DRIFT_AXIS)
        axes.barh(place, drawn, color=ALARM if column["drifted"] else CANDIDATE, height=0.62)
        axes.text(max(drawn, 1.0) + 0.06, place, told, va="center", fontsize=8.5, color=INK)
    axes.axvline(1.0, color=INK, linewidth=1.0, linestyle="--")
    axes.set_yticks(range(len(columns)), names)
    axes.set_xlim(0.0, _DRIFT_AXIS + 1.6)
    axes.set_xticks(range(int(_DRIFT_AXIS) + 1))
    axes.grid(visible=False, axis="y")
    return figure


def training_curve(training: Sequence[Mapping[str, float]]) -> Figure:
    """Draw loss and NLL over the steps, and the KL beneath them."""
    figure = canvas(7.0, 5.2, hspace=0.1)
    losses, divergence = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    dress(losses, "Training", "", "nats a row")
    dress(divergence, "", "optimiser step", "KL, nats")
    for axes, name, colour in (
        (losses, "loss", INK),
        (losses, "nll", CANDIDATE),
        (divergence, "kl", ALARM),
    ):
        known = [(line["step"], line[name]) for line in training if name in line]
        if known:
            steps, values = zip(*known, strict=True)
            axes.plot(steps, values, color=colour, linewidth=1.6, label=name.replace("nll", "NLL"))
    losses.legend(frameon=False)
    return figure


def shift(kl_by_block: Mapping[str, float]) -> Figure:
    """Draw how far the posterior moved from its prior, in nats, block by block."""
    blocks = {name: kl_by_block[name] for name in reversed(list(kl_by_block))}
    figure = canvas(7.0, 1.2 + 0.3 * len(blocks), left=beside(list(blocks)))
    axes = figure.subplots()
    total = sum(blocks.values())
    dress(axes, f"Posterior shift: {total:,.1f} nats in all", "KL(posterior ‖ prior), nats", "")
    axes.barh(range(len(blocks)), list(blocks.values()), color=CANDIDATE, height=0.66)
    for place, nats in enumerate(blocks.values()):
        axes.text(nats, place, f" {nats:,.1f}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(blocks)), list(blocks), fontsize=8.5)
    axes.set_xlim(0.0, max([1e-9, *blocks.values()]) * 1.15)
    axes.grid(visible=False, axis="y")
    return figure


def regression(sets: Sequence[SetReport]) -> Figure:
    """Draw headline and NLL of both models on each frozen regression set."""
    known = [found for found in reversed(sets) if found.differences]
    headline = known[0].figures.headline
    shown = {headline.name: "", "nll": "NLL"} | {headline.name: headline.told}
    names = [f"{found.name} ({found.rows})" for found in known]
    figure = canvas(9.0, 1.8 + 0.5 * len(known), left=beside(names), top=0.7)
    figure.suptitle("What was learned before", x=0.02, ha="left", fontweight="bold", color=INK)
    plots = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (metric, told) in zip(plots, shown.items(), strict=True):
        dress(axes, "", told, "")
        for place, found in enumerate(known):
            before, after = getattr(found.reference, metric), getattr(found.candidate, metric)
            axes.plot([before, after], [place, place], color=GRID, linewidth=5, zorder=1)
            # The bootstrap interval of the difference, drawn around the candidate.
            spread = found.differences[metric]
            axes.plot(
                [before + spread.low, before + spread.high], [place, place], color=CANDIDATE,
                linewidth=1.2, zorder=2,
            )  # fmt: skip
            axes.scatter(before, place, s=55, color=REFERENCE, zorder=3)
            axes.scatter(after, place, s=55, color=CANDIDATE, zorder=4)
        axes.set_yticks(range(len(known)), names)
        axes.set_ylim(-0.6, len(known) - 0.4)
        axes.margins(x=0.15)
    for name, colour in ((known[0].against, REFERENCE), ("candidate, with 95 %", CANDIDATE)):
        axes.scatter([], [], s=55, color=colour, label=name)
    figure.legend(frameon=False, loc="upper right", ncols=2)
    return figure


def _reach(bars: Sequence[ReliabilityBin]) -> tuple[float, float]:
    """Return the smallest and the largest number that was said or happened."""
    both = [value for bar in bars for value in (bar.confidence, bar.accuracy)]
    return min(both), max(both)


def _middle(bar: ReliabilityBin, probable: bool) -> float:
    """Return where a bar stands: in the middle of its bounds, or on what was said in it."""
    return (bar.low + bar.high) / 2 if probable else bar.confidence


def _at_rejection(name: str, quality: Quality) -> str:
    figures = quality.figures
    whole, kept = (getattr(quality, one) for one in (figures.headline.name, figures.rejected))
    return f"{name}: {whole:.3f}, at 20 % {kept:.3f}"


def _ratio(column: Mapping[str, Any]) -> float | None:
    if column["value"] is None or not column["threshold"]:
        return None
    return float(column["value"]) / float(column["threshold"])

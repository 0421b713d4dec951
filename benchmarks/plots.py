"""Draw the page's plots from the figures alone: bars, cost against fidelity, and growth."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
INK, OURS, LIMIT = "#333333", "#1f77b4", "#c44e52"


def draw(found: list[dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Draw what `PLOTS` knows of into `folder`; return the files by benchmark."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures make the same file, byte for byte.
    matplotlib.rcParams.update({"svg.hashsalt": "bhpeft", "svg.fonttype": "none", "font.size": 9})
    drawn: dict[str, Path] = {}
    for one in found:
        plot = PLOTS.get(one["name"])
        figure = plot(one["rows"]) if plot else None
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            drawn[one["name"]] = folder / f"{one['name']}.svg"
            figure.savefig(drawn[one["name"]], metadata={"Date": None}, bbox_inches="tight")
    return drawn


def bars(rows: Rows) -> Any:
    """Draw every figure as a bar with its quartiles, and its target as a mark."""
    if not rows:
        return None
    figure, axes = _axes(height=0.3 * len(rows) + 0.8)
    for place, row in enumerate(reversed(rows)):
        axes.barh(place, row["ratio"], color=OURS, alpha=0.8)
        axes.plot([row["low"], row["high"]], [place, place], color=INK, linewidth=2)
        if row["target"] is not None:
            axes.plot([row["target"]], [place], "|", color=LIMIT, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [row["what"] for row in reversed(rows)])
    axes.axvline(1.0, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("ratio; red: target")
    return figure


def cost_and_fidelity(rows: Rows) -> Any:
    """Draw one point for each predictor that has both a cost and a KL to the gold."""
    points: dict[str, dict[str, float]] = {}
    for row in rows:
        name, _, rest = row["what"].partition(": ")
        for kind in ("cost", "KL to gold"):
            if rest.startswith(kind):
                points.setdefault(name, {})[kind] = row["ratio"]
    both = {name: at for name, at in points.items() if len(at) == 2}
    if not both:
        return None
    figure, axes = _axes(height=3.4)
    for name, at in both.items():
        axes.plot(at["cost"], at["KL to gold"], "o", color=OURS)
        axes.annotate(
            name, (at["cost"], at["KL to gold"]), xytext=(5, 4), textcoords="offset points"
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("cost of a prediction over one deterministic pass")
    axes.set_ylabel("KL to the gold over naive's")
    return figure


def growth(pattern: str, label: str, value: str) -> Callable[[Rows], Any]:
    """Return a plot of the rows whose `what` holds a number where the pattern has its group."""

    def plot(rows: Rows) -> Any:
        points = [
            (int(found[1].replace(",", "")), row)
            for row in rows
            if (found := re.search(pattern, row["what"]))
        ]
        if len(points) < 2:
            return None
        points.sort(key=lambda point: point[0])
        at, kept = [x for x, _ in points], [row for _, row in points]
        figure, axes = _axes(height=2.6)
        axes.plot(at, [row["ratio"] for row in kept], "o-", color=OURS)
        axes.fill_between(at, [r["low"] for r in kept], [r["high"] for r in kept], alpha=0.2)
        if kept[-1]["target"] is not None:
            axes.axhline(kept[-1]["target"], color=LIMIT, linewidth=1)
        if at[-1] > 1000:
            axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel(value)
        return figure

    return plot


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


PLOTS: dict[str, Callable[[Rows], Any]] = {
    "train_step": bars,
    "predict": cost_and_fidelity,
    "rounds": growth(r"^cost of round (\d+) ", "round", "cost over round 2's; red: target"),
    "rows": growth(
        r"^([\d,]+) rows: peak over the model",
        "rows of the batch",
        "MB over the model; red: target",
    ),
}

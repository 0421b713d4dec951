"""Draw a claim's plots from the JSON alone: reliability, rejection, lines over rounds, matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

INK, OURS = "#333333", "#111111"
# Lines that lie on each other are seen through each other's gaps.
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))
Data = Mapping[str, Any]


def draw(entries: Mapping[str, Any], folder: Path) -> dict[str, list[tuple[str, Path]]]:
    """Draw every claim's plots into `folder`, and leave no other there.

    Returns:
        Titles and files by claim.
    """
    import matplotlib

    matplotlib.use("Agg")
    # The same figures make the same file, byte for byte.
    matplotlib.rcParams.update({"svg.hashsalt": "bhpeft", "svg.fonttype": "none", "font.size": 9})
    drawn: dict[str, list[tuple[str, Path]]] = {}
    for name, one in entries.items():
        for at, plot in enumerate(one["plots"], 1):
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{name.lower()}-{at}.svg"
            figure = KINDS[plot["kind"]](plot["data"])
            figure.axes[0].set_title(plot["title"], fontsize=9)
            figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
            drawn.setdefault(name, []).append((plot["title"], file))
    shown = {file for plots in drawn.values() for _, file in plots}
    for stale in set(folder.glob("*.svg")) - shown:
        stale.unlink()
    return drawn


def reliability(data: Data) -> Any:
    """Draw accuracy over confidence, a point for each bin, as large as its rows are many."""
    figure, axes = _axes(3.2, 3.2)
    low = min(point[0] for points in data["lines"].values() for point in points)
    axes.plot([low, 1], [low, 1], color=INK, linewidth=0.6, linestyle=":")
    for name, points in data["lines"].items():
        line = axes.plot([p[0] for p in points], [p[1] for p in points], linewidth=1, label=name)
        sizes = [max(6.0, 300 * p[2] / sum(q[2] for q in points)) for p in points]
        color = line[0].get_color()
        axes.scatter([p[0] for p in points], [p[1] for p in points], sizes, color=color, alpha=0.6)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(frameon=False)
    return figure


def rejection(data: Data) -> Any:
    """Draw the accuracy of the rest over the share of rows refused."""
    figure, axes = _axes(5.0, 2.8)
    for name, points in data["lines"].items():
        kept = [p for p in points if p[0] <= 0.5]
        axes.plot([100 * p[0] for p in kept], [100 * p[1] for p in kept], label=name)
    axes.set_xlabel("refused, %")
    axes.set_ylabel("accuracy of the rest, %")
    axes.legend(frameon=False)
    return figure


def lines(data: Data) -> Any:
    """Draw a line for each name; `log` for the x axis, `mark` for a moment."""
    figure, axes = _axes(6.0, 3.0)
    for at, (name, points) in enumerate(data["lines"].items()):
        look = {"linestyle": DASHES[at % len(DASHES)], "marker": "o", "markersize": 3}
        look |= {"color": OURS, "linewidth": 2.2, "linestyle": "-"} if name == "ours" else {}
        axes.plot([p[0] for p in points], [p[1] for p in points], label=name, **look)
    measured = sorted({p[0] for points in data["lines"].values() for p in points})
    if data.get("log"):
        axes.set_xscale("log")
    # Where something was measured, and nowhere between: a round is a whole number.
    axes.set_xticks(measured, [f"{x:g}" for x in measured], minor=False)
    axes.minorticks_off()
    if "mark" in data:
        axes.axvline(data["mark"], color=INK, linewidth=0.8, linestyle=":")
    axes.set_xlabel(data["x"])
    axes.set_ylabel(data["y"])
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def matrix(data: Data) -> Any:
    """Draw a figure for each test set (across) after each round (down)."""
    figure, axes = _axes(3.4, 2.8)
    axes.imshow(data["values"], cmap="Blues", vmin=50, vmax=100)
    for y, row in enumerate(data["values"]):
        for x, value in enumerate(row):
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", color=INK)
    axes.set_xticks(range(len(data["columns"])), data["columns"])
    axes.set_yticks(range(len(data["rows"])), [f"after {name}" for name in data["rows"]])
    return figure


KINDS: dict[str, Callable[[Data], Any]] = {
    "reliability": reliability,
    "rejection": rejection,
    "lines": lines,
    "matrix": matrix,
}


def _axes(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes

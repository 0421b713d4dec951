"""Draw the page's plots from the figures alone: bars, cost against fidelity, and growth."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
INK, OURS, LIMIT = "#333333", "#1f77b4", "#c44e52"
KL, RANK = "KL to gold", "rank correlation of MI"
# Where a point's name may stand, in points from it, the best place first.
NAMES_AT = (
    ((7, 0), "left"), ((-7, 0), "right"), ((0, 10), "center"), ((0, -10), "center"),
    ((7, 10), "left"), ((7, -10), "left"), ((-7, 10), "right"), ((-7, -10), "right"),
)  # fmt: skip
# Bars end here, and say what they are: one peer that takes thirty steps must not flatten the rest.
LONGEST = 2.5


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
    figure, (axes,) = _axes(height=0.3 * len(rows) + 0.8)
    for place, row in enumerate(reversed(rows)):
        axes.barh(place, min(row["ratio"], LONGEST), color=OURS, alpha=0.8)
        if row["ratio"] > LONGEST:
            axes.text(LONGEST, place, f" {row['ratio']:.1f}", va="center")
        else:
            axes.plot([row["low"], row["high"]], [place, place], color=INK, linewidth=2)
        if row["target"] is not None:
            axes.plot([row["target"]], [place], "|", color=LIMIT, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(rows)), [row["what"] for row in reversed(rows)])
    axes.axvline(1.0, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("ratio; red: target")
    return figure


def cost_and_fidelity(rows: Rows) -> Any:
    """Draw a point for each predictor with a cost and a KL to the gold; beside it, how it ranks."""
    points: dict[str, dict[str, float]] = {}
    for row in rows:
        name, kind = _figure_of(row["what"])
        if kind:
            points.setdefault(name, {})[kind] = row["ratio"]
    both = {name: at for name, at in points.items() if {"cost", KL} <= at.keys()}
    if not both:
        return None
    ranks = {name: at for name, at in both.items() if RANK in at}
    figure, axes = _axes(height=3.4, columns=2 if ranks else 1)
    panels = {KL: both} | ({RANK: ranks} if ranks else {})
    for panel, (kind, shown) in zip(axes, panels.items(), strict=True):
        for at in shown.values():
            panel.plot(at["cost"], at[kind], "o", color=OURS)
        panel.axhline(1.0 if kind == KL else 0.0, color=INK, linewidth=0.6, linestyle=":")
        panel.margins(0.22)
        panel.set_xscale("log")
        panel.set_xlabel("cost over one deterministic pass")
        panel.set_ylabel(f"{kind}{' ÷' if kind == KL else ' below'} ten draws'")
    axes[0].set_ylim(bottom=0)
    figure.subplots_adjust(wspace=0.35)
    for panel, (kind, shown) in zip(axes, panels.items(), strict=True):
        _named(panel, {name: (at["cost"], at[kind]) for name, at in shown.items()})
    return figure


def _named(panel: Any, points: dict[str, tuple[float, float]]) -> None:
    """Write each point's name beside it, where it lies on no other point and no other name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    renderer = FigureCanvasAgg(panel.figure).get_renderer()
    taken = {
        name: Bbox.from_bounds(x - 4, y - 4, 8, 8)
        for name, (x, y) in ((n, panel.transData.transform(at)) for n, at in points.items())
    }
    for name, at in points.items():
        others = [box for other, box in taken.items() if other != name]
        for (dx, dy), align in NAMES_AT:
            text = panel.annotate(
                name, at, xytext=(dx, dy), textcoords="offset points", ha=align, va="center"
            )
            box = text.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in others):
                break
            if ((dx, dy), align) != NAMES_AT[-1]:
                text.remove()
        taken[f"the name {name}"] = box


def _figure_of(what: str) -> tuple[str, str]:
    """Return the predictor a row is of, and which of its figures it is; ("", "") of another."""
    for mark, kind in ((": cost", "cost"), (f": {KL}", KL), (f", {RANK}", RANK)):
        name, found, _ = what.partition(mark)
        if found:
            return name, kind
    return "", ""


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
        figure, (axes,) = _axes(height=2.6)
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


def _axes(height: float, columns: int = 1) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 if columns == 1 else 9.5, height))
    panels = [figure.add_subplot(1, columns, at + 1) for at in range(columns)]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


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

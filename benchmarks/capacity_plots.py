"""Draw the capacity figures: what saturates at how many streams, and how long batches wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.plots import INK, LIMIT, OURS

# Of one process or one core, by what they are called on the page.
SHARES = {
    "mlflow, cores": ("MLflow", "#1f77b4"),
    "prefect, cores": ("Prefect", "#2ca02c"),
    "postgresql, cores": ("PostgreSQL", "#9467bd"),
    "cores that start processes": ("starting rounds' processes", "#ff7f0e"),
    "cores that start processes, polled every 5 minutes": ("polling every 5 minutes", "#8c564b"),
}
FEWEST, MOST = 100, 1_000_000


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Draw both plots into `folder`; the same figures make the same files, byte for byte."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "bhpeft", "svg.fonttype": "none", "font.size": 9})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, figure in {"saturation": saturation(found), "waits": waits(found["queues"])}.items():
        drawn.append(folder / f"{name}.svg")
        figure.savefig(drawn[-1], metadata={"Date": None}, bbox_inches="tight")
    return drawn


def saturation(found: dict[str, Any]) -> Any:
    """Draw how many cores each server keeps busy, against the number of daily streams."""
    figure, axes = _axes(height=3.2)
    for name, (label, colour) in SHARES.items():
        share = found["saturation"].get(name, 0.0) / found["streams"]
        if share:
            ends = [FEWEST, MOST]
            axes.loglog(ends, [share * at for at in ends], color=colour, label=label)
    axes.axhline(1.0, color=LIMIT, linewidth=1)
    axes.axvline(found["streams"], color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("streams, one batch a day each, evenly over the day")
    axes.set_ylabel("cores kept busy; red: one")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def waits(queues: list[dict[str, Any]]) -> Any:
    """Draw the median and the 99th percentile of every simulated day's waits."""
    figure, axes = _axes(height=0.19 * len(queues) + 0.8)
    names = []
    for place, row in enumerate(reversed(queues)):
        least = max(row["p50"], 1.0), max(row["p99"], 1.0)
        axes.plot(least, [place, place], color=OURS, linewidth=1)
        axes.plot(least[:1], [place], "o", color=OURS, markersize=4)
        axes.plot(least[1:], [place], "|", color=INK, markersize=8)
        facts = f"{row['gpu_seconds']:g} s × {row['gpus']} GPUs, {row['landing']}, {row['queue']}"
        names.append(facts)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    axes.set_xlabel("seconds a batch waits: ● median (1 or less at the edge), | 99th percentile")
    return figure


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, height))
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes

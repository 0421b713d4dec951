"""What the figures of a round have in common: colours, margins, axes, and who is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bhpeft.judgement.quality import SetReport

CANDIDATE, REFERENCE, ALARM = "#1f5fbf", "#9a9a9a", "#c8452c"
INK, GRID = "#2b2b2b", "#e4e4e4"


def sides_of(found: SetReport) -> tuple[tuple[str, Any, str], ...]:
    """Return what is compared: its name, its figures, its colour."""
    return (
        (found.against, found.reference, REFERENCE),
        ("candidate", found.candidate, CANDIDATE),
    )


def canvas(
    width: float, height: float, left: float = 0.85, top: float = 0.45, hspace: float = 0.2
) -> Figure:
    """Return a figure with margins in inches.

    To have matplotlib find them means to draw everything once more.
    """
    figure = Figure(figsize=(width, height), facecolor="white", dpi=120)
    figure.subplots_adjust(
        left=left / width,
        right=1.0 - 0.2 / width,
        top=1.0 - top / height,
        bottom=0.6 / height,
        hspace=hspace,
        wspace=0.06,
    )
    FigureCanvasAgg(figure)
    return figure


def beside(names: Sequence[str]) -> float:
    """Return the inches that names on the left take, at most four."""
    return min(4.0, 0.2 + 0.085 * max(map(len, names), default=0))


def dress(axes: Axes, title: str, across: str, up: str) -> None:
    """Give axes a title, names and a quiet grid."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)

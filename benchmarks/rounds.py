"""Whether round t costs what round 2 cost: time and memory over a chain of rounds.

Rounds of the same size, each from the last one's posterior, with judgement and registration. A
figure is the median of five rounds over the median of rounds 2 to 6, by CPU time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.budget import Budget
from benchmarks.overhead import small_stream
from benchmarks.paired import Row, row
from benchmarks.texts import opinions
from benchmarks.timed_rounds import Timed, timed_rounds


def rows(budget: Budget) -> list[Row]:
    """Return cost and memory of later rounds over round 2's."""
    count, size, width = budget.of((50, 200, 5), (4, 60, 1))
    sentences = opinions()
    batches = (sentences.iloc[i * size : (i + 1) * size] for i in range(count))
    with tempfile.TemporaryDirectory() as folder:
        found = list(timed_rounds(small_stream(Path(folder), budget), batches))
    first = found[1 : 1 + width]
    rows = []
    for last in budget.of((10, 20, 30, 40, 50), (3, 4)):
        later = found[last - width : last]
        promised = 1.03 if last == count else None
        rows += [
            row(f"cost of round {last} ÷ round 2", _over(later, first, "seconds"), promised),
            row(f"memory after round {last} ÷ round 2", _over(later, first, "resident"), promised),
        ]
    return rows


def _over(later: Sequence[Timed], first: Sequence[Timed], figure: str) -> list[float]:
    usual = median(getattr(one, figure) for one in first)
    return [getattr(one, figure) / usual for one in later]

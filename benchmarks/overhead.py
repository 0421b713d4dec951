"""What a warm round costs outside training and scoring, step by step.

Contract, split, drift, report, figures and registration on a SQLite database, in one process: the
first two rounds, which import and set up, are left out. Scoring is what the predictor takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.budget import Budget
from benchmarks.paired import Row, row
from benchmarks.streams import BASE, stream
from benchmarks.texts import opinions
from benchmarks.timed_rounds import Timed, timed_rounds
from bhpeft.stream import Stream

NOTES = """
Writing down is the largest part, and of that six figures: they have margins of their own, since to
have matplotlib find them is to draw everything twice. The rest is Evidently's page, and MLflow's
inserts: all metrics go in one call, all files in another. These are seconds, not ratios, and follow
what the neighbours leave of the processor: 1.4 to 2.2 s in four runs.
"""

WARM = 2
# At most 2 s, and at most 3 % of a round of a minute.
MOST = min(2.0, 0.03 * 60)
STEPS = (
    "find_parent", "check_batch", "fetch_parent", "prepare", "write_down", "packed", "register",
    "conclude",
)  # fmt: skip


def rows(budget: Budget) -> list[Row]:
    """Return the overhead of a warm round, and where it goes."""
    sentences, size = opinions(), budget.of(500, 60)
    count = budget.of(6, 3)
    batches = (sentences.iloc[i * size : (i + 1) * size] for i in range(count))
    with tempfile.TemporaryDirectory() as folder:
        home = small_stream(Path(folder), budget, predictor="mean")
        found = list(timed_rounds(home, batches))[WARM:]
    return [
        row("a warm round outside training and scoring: s", [one.overhead for one in found], MOST),
        *(row(f"of that, {step}: s", _of(found, step)) for step in STEPS),
        row("of that, examine without scoring: s", _examined(found)),
    ]


def _of(found: Sequence[Timed], step: str) -> list[float]:
    return [one.parts.get(step, 0.0) for one in found]


def _examined(found: Sequence[Timed]) -> list[float]:
    return [one.parts["examine"] - one.parts["scoring"] for one in found]


def small_stream(
    home: Path,
    budget: Budget,
    predictor: str,
    memory: int = 5,
    rates: tuple[float, float] = (2e-3, 1.0),
) -> Stream:
    """Return a stream whose rounds train one epoch of LoRA and promote.

    `rates` are those of the means and of rho.

    How far its predictor is from the posterior is not measured: that is scoring, and takes more
    than a small round's.
    """
    return stream(
        home,
        sections=f"memory_batches = {memory}\n"
        f'[model]\nbase = "{BASE}"\nmax_length = 64\nlayers = {budget.of(6, 1)}\n'
        '[learning]\nmethods = ["lora"]\n'
        "[learning.plan]\nepochs = 1\nmax_epochs = 1\n"
        f"learning_rate = {rates[0]}\nrho_learning_rate = {budget.of(rates[1], 2.0)}\n"
        f'[prediction]\npredictor = "{predictor}"\nfidelity_rows = 0\n'
        "[gates]\nnll = false\naccuracy = false\nforgetting = false\nslices = false\n"
        "calibration = false\nrejection = false\n",
    )

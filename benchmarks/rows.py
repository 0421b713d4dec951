"""A batch of ten million rows: landed, checked, taken in and trained for a bounded number of steps.

Rows are pairs of real sentences, no two alike, written to Parquet before anything is measured.
`learning.plan.max_steps` bounds the training, and with it what is tokenised: a random sample of the
batch, as large as those steps look at. Until then the figure is the most memory the process holds
beyond what it held with the model loaded. Training then holds a step's activations, whatever the
batch; its figure is what it holds beyond the same steps on 2,000 rows.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.budget import Budget
from benchmarks.memory import process_peak
from benchmarks.paired import Row, row
from benchmarks.streams import BASE, stream
from benchmarks.texts import opinions
from bhpeft.data.check import check
from bhpeft.data.contract import load_contract
from bhpeft.data.land import land
from bhpeft.models.adapted import AdaptedModel
from bhpeft.rounds.intake import Intake, take_in
from bhpeft.rounds.spec import model_of
from bhpeft.rounds.training import train
from bhpeft.stream import Stream

NOTES = """
Nothing of a batch is held but a chunk at a time and bounded samples: with an arena for each thread
the three peaks were 47, 46 and 47 MB. With one for all (`bhpeft.allocator`), which keeps a process
from growing with its rounds, what is free lies between what is not, and how much of it is held is
chance: 119, 69 and 20 MB of ten million rows in three runs. It is given back when the round has
ended.
"""

STEPS, GROUP = 100, 100_000
MEGABYTE = 2**20


def rows(budget: Budget) -> list[Row]:
    """Return the peaks at growing sizes, and what the largest batch takes."""
    least, *sizes = budget.of((2_000, 100_000, 1_000_000, 10_000_000), (1_000, 2_000, 4_000))
    sentences = opinions()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        home = _stream(Path(folder, "warm"), budget)
        model = model_of(home, load_contract(home.contract), None)
        source = Path(folder, "source.parquet")
        # The first batch pays for imports too; the second is what others are compared with.
        for name in ("warm", "least"):
            home = _stream(Path(folder, name), budget)
            _, usual = _learn(home, model, _written(source, sentences, least))
        for size in sizes:
            home = _stream(Path(folder, str(size)), budget)
            _written(source, sentences, size)
            began = time.process_time()
            taken, trained = _learn(home, model, source)
            seconds = time.process_time() - began
            target = 300 if size == sizes[-1] else None
            found += [
                row(
                    f"{size:,} rows: peak over the model, landed to tokenised, MB", [taken], target
                ),
                row(
                    f"{size:,} rows: training's beyond {least:,} rows', MB",
                    [trained - usual],
                    target,
                ),
            ]
    steps = f"{sizes[-1]:,} rows: s from file to {_steps(budget)} steps"
    return [*found, row(steps, [seconds])]


def _learn(home: Stream, model: AdaptedModel, source: Path) -> tuple[float, float]:
    """Do with rows what a round does; return the peaks until they are tokenised, and after."""
    contract = load_contract(home.contract)
    kept: list[Intake] = []

    def take() -> None:
        batch = land(source, home.landing, contract, home.name, "all", validate=False)
        check(batch, contract)
        kept.append(take_in(home, batch, contract, model, home.cache))

    def learn() -> None:
        steps = train(home, kept[0], model, None).fitted.steps
        if steps > home.learning.plan["max_steps"]:
            raise AssertionError(f"{steps} steps were taken")

    return process_peak(take) / MEGABYTE, process_peak(learn) / MEGABYTE


def _steps(budget: Budget) -> int:
    return budget.of(STEPS, 10)


def _stream(home: Path, budget: Budget) -> Stream:
    layers = "" if not budget.smoke else "layers = 1\n"
    # rho's rate is what its way takes in so few steps.
    return stream(
        home,
        sections=f'[model]\nbase = "{BASE}"\nmax_length = 64\n{layers}'
        '[learning]\nmethods = ["lora"]\n'
        f"[learning.plan]\nepochs = 1\nmax_steps = {_steps(budget)}\nbatch_size = 16\n"
        "rho_learning_rate = 1.0\n",
    )


def _written(path: Path, sentences: pd.DataFrame, size: int) -> Path:
    """Write so many rows, each two sentences with the first one's label, no two alike."""
    texts, labels = sentences["text"].to_numpy(), sentences["label"].to_numpy()
    writer = None
    for start in range(0, size, GROUP):
        number = np.arange(start, min(size, start + GROUP))
        first, second = number % len(texts), (number // len(texts) + number * 7) % len(texts)
        table = pa.table(
            {
                "id": pa.array(number).cast(pa.string()),
                "text": pa.array(texts[first] + " " + texts[second] + " " + number.astype(str)),
                "label": pa.array(labels[first]),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path

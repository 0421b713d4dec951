"""A whole round over a plain script that does the same: peft, evaluate, log, register.

Batches of 2,000 texts of the demo's corpus, MiniLM, LoRA on all layers, two epochs; each side
continues its own champion, batch after batch. Both train on the same rows and judge the old and the
new model on the same new hold-out and on those of earlier batches, look for drift, and record all
of it in MLflow on SQLite. Ours has the stream file's defaults: a Gaussian posterior, fixed draws,
every gate. CPU time; both sides' first two rounds, which import and set up, are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.budget import Budget
from benchmarks.machine import target
from benchmarks.paired import Row, over, row
from benchmarks.peers.plain_round import PlainRound
from benchmarks.peers.problem import minilm
from benchmarks.streams import BASE, stream
from benchmarks.texts import opinions
from benchmarks.timed_rounds import Timed, timed_rounds
from bhpeft.data.split import side_of
from bhpeft.stream import Stream

NOTES = """
A posterior is judged by several draws where the script makes one pass, and its drift report looks
at embeddings, which the script's does not. The last row is over a script that stores, as ours
does, what the champion said of earlier hold-out rows.
"""

EPOCHS = 2
WARM = 2
LABELS = ("negative", "positive")


def rows(budget: Budget) -> list[Row]:
    """Return our warm rounds over the script's."""
    found = list(_pairs(budget))[WARM:]
    ours, plain, lean = zip(*found, strict=True)
    seconds = [one.seconds for one in ours]
    return [
        row("a whole round ÷ a plain peft script's", over(seconds, plain), target(0.45, 0.30)),
        row("a whole round: CPU s", seconds),
        row("of that, training: CPU s", [one.parts["train_candidate"] for one in ours]),
        row("of that, scoring: CPU s", [one.parts["scoring"] for one in ours]),
        row("a plain peft script's: CPU s", plain),
        row("a whole round ÷ a script's that stores old predictions", over(seconds, lean)),
    ]


def _pairs(budget: Budget) -> Iterator[tuple[Timed, float, float]]:
    """Yield our round, the script's CPU seconds, and those without scoring earlier rows again."""
    began, size = time.monotonic(), budget.of(2000, 100)
    sentences = opinions()
    batches = [sentences.iloc[at : at + size] for at in range(0, len(sentences) - size + 1, size)]
    problem = minilm(tokens=128, layers=budget.of(None, 1))
    with tempfile.TemporaryDirectory() as folder:
        plain = PlainRound(Path(folder), problem, LABELS, EPOCHS)
        ours = timed_rounds(_stream(Path(folder, "ours"), budget), iter(batches))
        for done, batch in enumerate(batches[: budget.of(None, WARM + 1)]):
            if done > WARM and (time.monotonic() - began) * (done + 1) / done > budget.seconds:
                return
            took = next(ours)
            sides = side_of(batch["text"].tolist())
            start = time.process_time()
            plain.run(batch[sides == "train"], batch[sides == "holdout"])
            seconds = time.process_time() - start
            yield took, seconds, seconds - plain.seconds_on_earlier


def _stream(home: Path, budget: Budget) -> Stream:
    """Return a stream with the file's defaults but for the two epochs, which ρ must travel in."""
    layers = budget.of("", "layers = 1\n")
    return stream(
        home,
        sections=f'[model]\nbase = "{BASE}"\n{layers}[learning]\nmethods = ["lora"]\n'
        f"[learning.plan]\nepochs = {EPOCHS}\nmax_epochs = {EPOCHS}\n"
        f"rho_learning_rate = {budget.of(0.05, 2.0)}\n",
    )

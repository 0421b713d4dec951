"""A whole round over a plain script that does the same: peft, evaluate, log, register.

2,000 texts of the demo's corpus, MiniLM, LoRA on all layers, two epochs; each side continues its
own champion. Both train on the same rows and judge the old and the new model on the same new
hold-out and on those of earlier batches, look for drift, and record all of it in MLflow on SQLite.
Ours is a Gaussian posterior with every gate, predicting with eight draws of all weights (`full`,
the stream file's default) or of the last layer alone. CPU time; two small rounds of each side,
which import and set up, come first and are left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

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
What a posterior costs more than a point is its judgement: `full` passes over every judged row once
a draw, where the script passes once, and a predictor that approximates is measured against a
hundred draws on some rows before it may be promoted. The rows of seconds say how much that is.
"""

EPOCHS = 2
WARM = 2
LABELS = ("negative", "positive")


PREDICTORS = ("full", "last_layer")


def rows(budget: Budget) -> list[Row]:
    """Return our warm rounds over the script's."""
    *ours, plain = zip(*list(_rounds(budget))[WARM:], strict=True)
    found = []
    for predictor, timed in zip(PREDICTORS, ours, strict=True):
        seconds = [one.seconds for one in timed]
        most = target(0.45, 0.30)
        found += [
            row(f"a whole round, {predictor} ÷ a plain peft script's", over(seconds, plain), most),
            row(f"a whole round, {predictor}: CPU s", seconds),
            row(f"training in it, {predictor}: CPU s", [_training(one) for one in timed]),
            row(f"scoring in it, {predictor}: CPU s", [one.parts["scoring"] for one in timed]),
        ]
    return [*found, row("a plain peft script's: CPU s", plain)]


def _rounds(budget: Budget) -> Iterator[list[Any]]:
    """Yield our rounds, one a predictor, and the script's CPU seconds."""
    began, batches = time.monotonic(), _batches(budget)
    with tempfile.TemporaryDirectory() as folder:
        problem = minilm(tokens=128, layers=budget.of(None, 1))
        plain = PlainRound(Path(folder), problem, LABELS, EPOCHS)
        ours = [
            timed_rounds(_stream(Path(folder, name), name, budget), iter(batches))
            for name in PREDICTORS
        ]
        for done, batch in enumerate(batches):
            if done > WARM and (time.monotonic() - began) * (done + 1) / done > budget.seconds:
                return
            yield [*(next(rounds) for rounds in ours), _script(plain, batch)]


def _batches(budget: Budget) -> list[pd.DataFrame]:
    """Return the small batches that come first, and as many whole ones as there are."""
    sentences, small, size = opinions(), budget.of(200, 100), budget.of(2000, 100)
    starts = [small * at for at in range(WARM)]
    starts += range(small * WARM, len(sentences) - size + 1, size)
    sizes = [small] * WARM + [size] * (len(starts) - WARM)
    found = [sentences.iloc[at : at + n] for at, n in zip(starts, sizes, strict=True)]
    return found[: budget.of(None, WARM + 1)]


def _script(plain: PlainRound, batch: pd.DataFrame) -> float:
    sides = side_of(batch["text"].tolist())
    began = time.process_time()
    plain.run(batch[sides == "train"], batch[sides == "holdout"])
    return time.process_time() - began


def _training(timed: Timed) -> float:
    return timed.parts["train_candidate"]


def _stream(home: Path, predictor: str, budget: Budget) -> Stream:
    """Return a stream with the file's defaults but for the predictor and the two epochs.

    Rho's rate is large, since the small first round has few steps to travel in; none costs more.
    """
    layers, rho = budget.of("", "layers = 1\n"), budget.of(0.5, 2.0)
    few = budget.of("", "draws = 2\nfidelity_rows = 2\nfidelity_draws = 20\n")
    return stream(
        home,
        sections=f'[model]\nbase = "{BASE}"\n{layers}[learning]\nmethods = ["lora"]\n'
        f"[learning.plan]\nepochs = {EPOCHS}\nmax_epochs = {EPOCHS}\nrho_learning_rate = {rho}\n"
        f'[prediction]\npredictor = "{predictor}"\n{few}',
    )

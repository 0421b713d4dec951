"""Whether round t costs what round 2 cost, and what a chain saves over learning all again.

Rounds of 120 texts, each from the last one's posterior, with judgement by the mean weights and
registration. Hold-out rows of one earlier batch are kept: with five, as is the default, a round has
all it is held to from the sixth on. A figure of growth is the median of five rounds over the median
of rounds 2 to 6, by CPU time.

The alternative to a chain is to train peft LoRA from scratch on all rows there are, each time a
batch arrives. Such a training takes as long as its rows are many, so all twenty take 210 times a
twentieth of the last, which is run: one epoch, as each round is. Both are judged by their NLL on
400 texts nobody trained on, at the same round.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks.budget import Budget
from benchmarks.overhead import small_stream
from benchmarks.paired import Row, row
from benchmarks.peers.loop import Loop
from benchmarks.peers.problem import minilm
from benchmarks.streams import registry_of
from benchmarks.texts import opinions
from benchmarks.timed_rounds import Timed, timed_rounds
from bhpeft.data.split import side_of
from bhpeft.learning.predict import Predictor
from bhpeft.stream import Stream

NOTES = """
Memory had grown by three quarters over thirty rounds until oneDNN was kept from keeping a thousand
kernels, one for each shape of a product in bfloat16 (`bhpeft/__init__.py`), and by a seventh over
fifty until glibc was kept from giving every thread an arena of its own (`bhpeft.allocator`): what
was allocated had not grown at all, but each of MLflow's threads left a heap of free pages behind. A
process also gives back what a round has freed, and holds a quarter less after each than it did.
Round 2 is where the figure is taken from, and differs by a few megabytes from run to run: after 50
rounds it was 1.016 to 1.056 in five runs. Cost goes up and down with the neighbours, not with
rounds: 0.94, 1.00, 1.04, 0.96 and 1.07 along one run, 1.02, 1.04, 1.07, 1.16 and 1.02 along
another, 0.91 to 0.82 and back to 0.94 along a third.

Rounds are as small as a benchmark of fifty needs them: one pass over 84 rows is eleven steps, each
round begins and ends slowly, and draws let B get less far in as many steps ([short
rounds](method.md#short-rounds)). The means' rate is the plan's own; rho's is what the first round
needs so that σ can go its way in eleven steps, and takes it past the base prior. By chance σ went
on from there, to 1/200 of the base prior after twenty rounds, until a later round's was kept to
what its rows can have done to it ([method](method.md#does-σ-have-time-to-arrive)). It is the chain
that costs: in probes of this benchmark's chain (two orders of the texts) one of point estimates
ended at 0.43 to 0.46 nats, beside 0.37 and 0.39 of retraining, and minibatches of 2 rows, twice the
time, at 0.42 and 0.44. At twice the rate this one ended at 0.51 and 0.48 nats, at this one at 0.46
and 0.49 (two orders, others).
"""

LABELS = ("negative", "positive")

# Of the means and of rho, in rounds of eleven steps.
RATES = (2e-3, 0.45)


def rows(budget: Budget) -> list[Row]:
    """Return cost and memory of later rounds over round 2's, and the chain's over retraining's."""
    count, size, width, at = budget.of((50, 120, 5, 20), (4, 60, 1, 3))
    sentences = opinions()
    batches = [sentences.iloc[i * size : (i + 1) * size] for i in range(count)]
    unseen = sentences.iloc[count * size :].head(budget.of(400, 20))
    found: list[Timed] = []
    with tempfile.TemporaryDirectory() as folder:
        home = small_stream(Path(folder), budget, predictor="mean", memory=1, rates=RATES)
        for timed in timed_rounds(home, iter(batches)):
            found.append(timed)
            if len(found) == at:
                nll, arrived = _champion(home, Path(folder, "champion"), unseen)
    last, again = _retrained(pd.concat(batches[:at]), unseen, budget)
    every = last * (at + 1) / 2
    return [
        *_growth(found, budget.of((10, 20, 30, 40, 50), (3, 4)), width),
        row(
            f"training in {at} rounds ÷ training peft LoRA on all rows each round",
            [sum(one.parts["train_candidate"] for one in found[:at]) / every],
            0.05,
        ),
        row(
            f"{at} whole rounds, judged and registered ÷ the same trainings alone",
            [sum(one.seconds for one in found[:at]) / every],
        ),
        row(f"NLL after round {at} ÷ the retrained one's", [nll / again], 1.01),
        row(f"median σ after round {at} ÷ the base prior's", [arrived]),
    ]


def _growth(found: Sequence[Timed], shown: Sequence[int], width: int) -> list[Row]:
    first, made = found[1 : 1 + width], []
    for last in shown:
        later = found[last - width : last]
        promised = 1.03 if last == len(found) else None
        made += [
            row(f"cost of round {last} ÷ round 2", _over(later, first, "seconds"), promised),
            row(f"memory after round {last} ÷ round 2", _over(later, first, "resident"), promised),
        ]
    return made


def _over(later: Sequence[Timed], first: Sequence[Timed], figure: str) -> list[float]:
    usual = median(getattr(one, figure) for one in first)
    return [getattr(one, figure) / usual for one in later]


def _champion(home: Stream, folder: Path, unseen: pd.DataFrame) -> tuple[float, float]:
    """Return its NLL, all of its Gaussian weights taking part, and its σ over the base prior's."""
    registry = registry_of(home)
    champion = registry.champion(home.name)
    assert champion is not None
    version = Predictor.load(registry.download(champion, folder))
    predictor = Predictor(version.model, version.state.with_spec(predictor="linear"))
    probs = predictor.probabilities(unseen["text"].tolist()).mean(0)
    nll = float(-np.log(probs[np.arange(len(probs)), _classes(unseen)]).mean())
    return nll, float((version.state.posterior.std / version.state.prior.std).median())


def _retrained(rows: pd.DataFrame, unseen: pd.DataFrame, budget: Budget) -> tuple[float, float]:
    """Return what one training from scratch takes in CPU seconds, and its NLL."""
    # The same rows that the rounds train on; the others are theirs to be judged by.
    train = rows[side_of(rows["text"].tolist()) == "train"]
    loop = Loop(minilm(tokens=64, layers=budget.of(None, 1)), "do_not_pad")
    began = time.process_time()
    loop.epoch(train["text"].tolist(), _classes(train).tolist())
    taken = time.process_time() - began
    return taken, loop.nll(unseen["text"].tolist(), _classes(unseen).tolist())


def _classes(rows: pd.DataFrame) -> np.ndarray:
    return rows["label"].map({name: place for place, name in enumerate(LABELS)}).to_numpy()

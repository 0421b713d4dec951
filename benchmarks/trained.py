"""Train small posteriors on real text, once: what a prediction's fidelity can be measured on.

A posterior is learned as a round learns it, on MiniLM with LoRA in all layers, mean pooled, and
kept in `.cache/benchmarks`, under a name that follows from everything it was made with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd
from torch import Generator

from benchmarks.budget import Skipped
from benchmarks.peers.problem import MINILM, Problem
from benchmarks.texts import labelled, opinions
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.fit import fit
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.predict import Predictor
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import BH_PEFT
from bhpeft.models.arithmetic import MEASURED, Arithmetic
from bhpeft.models.pace import Pace
from bhpeft.models.tokens import TokenTable

KEPT = Path(".cache/benchmarks")
TOKENS, DRAWS = 64, 10


@dataclass(frozen=True)
class Learned:
    """A posterior and rows it has not seen.

    Attributes:
        name: the corpus and the seed.
        version: the model with the posterior's state.
        unlabelled, unseen: texts to distil on and to measure on.
    """

    name: str
    version: Predictor
    unlabelled: list[str]
    unseen: list[str]


def learned(corpus: str, seed: int, rows: int, epochs: int, layers: int | None = None) -> Learned:
    """Return the posterior of a corpus' rows, from the disk if it was learned before.

    Args:
        corpus: "opinions", the demo's, or a corpus of `$BHPEFT_DATA`.
        seed: of the rows chosen and of everything else.
        rows: training rows.
        epochs: passes over them.
        layers: keep the base's first n layers; None for all.

    Raises:
        Skipped: the corpus is not here.
    """
    table = opinions() if corpus == "opinions" else labelled(corpus)
    table = table.sample(frac=1.0, random_state=seed).reset_index(drop=True)
    names = sorted(str(label) for label in table["label"].unique())
    if len(table) < rows + 600:
        raise Skipped(f"the corpus {corpus} has {len(table)} rows, fewer than {rows + 600}")
    spec = _spec(tuple(names), seed, layers)
    folder = KEPT / sha256(f"{corpus} {rows} {epochs} {spec.as_json()}".encode()).hexdigest()[:20]
    model = build_model(spec, MEASURED, Pace())
    if not (folder / "spec.json").exists():
        _learn(spec, table[:rows], names, epochs).save(folder)
    version = Predictor(model, AdapterState.load(folder))
    side, held = table["text"][rows : rows + 300], table["text"][rows + 300 : rows + 600]
    return Learned(f"{corpus} {seed}", version, list(side), list(held))


def untrained(problem: Problem, arithmetic: Arithmetic) -> Predictor:
    """Return a version of a problem before it learned: what a prediction costs is the same."""
    spec = Spec(
        base=problem.base, revision="", fingerprint="", layers=problem.layers,
        task="classification", labels=tuple(f"class {c}" for c in range(problem.labels)),
        pooling=problem.pooling, max_length=TOKENS,
        methods={"lora": {"rank": problem.rank, "alpha": problem.alpha}}, variant=BH_PEFT.name,
        scale=BH_PEFT.scale, kl_weight=0.3, forgetting=1.0, gauge="", draws=DRAWS, seed=0,
        abstain_above=1.0,
    )  # fmt: skip
    model = build_model(spec, arithmetic, Pace())
    return Predictor(model, first_state(model, spec, BH_PEFT, ["a text"], Generator()))


def _spec(labels: tuple[str, ...], seed: int, layers: int | None) -> Spec:
    return Spec(
        base=MINILM, revision="", fingerprint="", layers=layers, task="classification",
        labels=labels, pooling="", max_length=TOKENS, methods={"lora": {}},
        variant=BH_PEFT.name, scale=BH_PEFT.scale, kl_weight=0.3, forgetting=1.0, gauge="",
        draws=DRAWS, seed=seed, abstain_above=1.0,
    )  # fmt: skip


def _learn(spec: Spec, rows: pd.DataFrame, names: Sequence[str], epochs: int) -> AdapterState:
    model = build_model(spec, MEASURED, Pace())
    source = Generator().manual_seed(spec.seed)
    texts = [str(text) for text in rows["text"]]
    state = first_state(model, spec, BH_PEFT, texts[:32], source)
    index = {name: place for place, name in enumerate(names)}
    chunk = (texts, [index[str(label)] for label in rows["label"]], list(range(len(texts))))
    plan = Plan(epochs=epochs, max_epochs=200, rho_learning_rate=0.1)
    with tempfile.TemporaryDirectory() as folder:
        table = TokenTable.build([chunk], model.base.tokenizer, TOKENS, Path(folder), "rows")
        lesson = Lesson(model, state, state.prior, table, plan, BH_PEFT, first=True)
        return fit(lesson, source).state

"""Learn and predict as a round does, without a registry around it: what every run is made of.

Training, variants, finishes and draws are the library's own (`bhpeft.learning`); this module only
brings texts and states together, and lets the layers below the lowest adapted one run once a text,
for training and for every later prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from benchmarks.peers.problem import MINILM
from bhpeft.learning.build import build_model, first_state, later_state
from bhpeft.learning.complete import complete
from bhpeft.learning.finishes import Selection
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.members import with_members
from bhpeft.learning.plan import Plan
from bhpeft.learning.predictors import full
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import Variant, Width, variant
from bhpeft.models.arithmetic import MEASURED
from bhpeft.models.feature_table import FeatureTable, with_features
from bhpeft.models.tokens import TokenTable
from bhpeft.posterior import MeanField

# Bytes of frozen layers' outputs that are kept between runs: all corpora of R1 are 2 GB.
KEPT_FEATURES = 3 * 2**30

HEAD = ("head.weight", "head.bias")
# Rows of a minibatch where a recipe names none, whatever the library's default is.
SIZE = 16


@dataclass(frozen=True)
class Recipe:
    """How a run learns; a run's result is kept under a digest of it.

    Attributes:
        variant: by its name in the library.
        changes: fields of the variant that differ from it.
        head_std: σ0 of a Gaussian head; 0 leaves the head as the variant has it.
        base: the frozen model.
        layers: how many of its top layers are adapted.
        methods: name → settings.
        pooling: how hidden states become one vector; empty is the architecture's.
        tokens: longer texts are cut.
        plan: of the library, where it differs from the defaults.
        least_steps: a round of few rows passes over them until it has taken so many steps.
        task: what is predicted.
    """

    variant: str = "bh_peft"
    changes: Mapping[str, Any] = field(default_factory=dict)
    head_std: float = 0.0
    base: str = MINILM
    layers: int = 3
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"lora": {}})
    pooling: str = ""
    tokens: int = 64
    plan: Mapping[str, Any] = field(default_factory=dict)
    least_steps: int = 0
    task: str = "classification"

    @property
    def chosen(self) -> Variant:
        """Return the variant with the recipe's changes."""
        changes = {
            name: frozenset(value) if name == "gaussian" else value
            for name, value in self.changes.items()
        }
        found = replace(variant(self.variant), **changes)
        if not self.head_std:
            return found
        widths = {**found.prior, **{name: Width(self.head_std) for name in HEAD}}
        return replace(found, gaussian=found.gaussian | set(HEAD), prior=widths)


@dataclass(frozen=True)
class Rows:
    """Texts and their classes, as numbers."""

    texts: Sequence[str]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: Rows) -> Rows:
        return Rows([*self.texts, *other.texts], [*self.labels, *other.labels])

    def take(self, places: Sequence[int]) -> Rows:
        """Return the rows at these places."""
        return Rows([self.texts[at] for at in places], [self.labels[at] for at in places])


class Learner:
    """A model, its variant, and where its tables are kept."""

    def __init__(self, recipe: Recipe, labels: Sequence[str], seed: int, folder: Path):
        self.recipe, self.seed, self.folder = recipe, seed, folder
        self.variant = recipe.chosen
        self.generator = Generator().manual_seed(seed)
        shared: dict[str, Any] = {"layers": recipe.layers or None}
        if self.variant.parameterisation != "blob":
            shared["parameterisation"] = self.variant.parameterisation
        self.spec = Spec(
            base=recipe.base, revision="", fingerprint="", layers=None, task=recipe.task,
            labels=tuple(labels), pooling=recipe.pooling, max_length=recipe.tokens,
            methods={name: {**shared, **given} for name, given in recipe.methods.items()},
            variant=self.variant.name, scale=self.variant.scale, kl_weight=self.variant.kl_weight,
            forgetting=1.0, gauge="", draws=10, seed=seed, abstain_above=float("inf"),
            dropout=dict(self.variant.dropout),
        )  # fmt: skip
        self.model = build_model(self.spec, MEASURED)
        self._tables: dict[str, TokenTable] = {}

    def first(self, texts: Sequence[str]) -> AdapterState:
        """Return the state before anything was learned; on `texts` prefixes are measured."""
        start = first_state(self.model, self.spec, self.variant, texts[:32], self.generator)
        return with_members(start, self.model, self.variant)

    def round(
        self,
        state: AdapterState,
        rows: Rows,
        selection: Rows = Rows((), ()),
        *,
        first: bool = True,
        forgetting: float = 1.0,
        **changes: Any,
    ) -> AdapterState:
        """Learn rows from a state, as a round does.

        Args:
            state: the first one, or the last round's.
            rows: to train on.
            selection: for what a variant chooses after the descent.
            first: whether the state has learned nothing yet.
            forgetting: ρ.
            changes: fields of the plan for this round.
        """
        start, prior = state, state.prior
        if not first:
            start, prior = later_state(state, self.variant, forgetting, self.generator)
        with self.reading(rows) as table:
            lesson = self.lesson(start, prior, table, first, forgetting, **changes)
            kept = Selection(selection.texts, np.array(selection.labels, dtype=np.int64))
            return complete(lesson, self.generator, kept).state

    def _plan(self, rows: int, changes: Mapping[str, Any]) -> Plan:
        plan = Plan(**{"batch_size": SIZE, **self.recipe.plan, **changes})
        epochs = -(-self.recipe.least_steps // -(-rows // plan.batch_size))
        epochs = max(plan.epochs, epochs)
        return replace(plan, epochs=epochs, max_epochs=max(epochs, plan.max_epochs))

    def lesson(
        self,
        start: AdapterState,
        prior: MeanField,
        rows: TokenTable | FeatureTable,
        first: bool = True,
        forgetting: float = 1.0,
        **changes: Any,
    ) -> Lesson:
        """Return a round's learning problem."""
        plan, predicted = self._plan(len(rows), changes), start.spec.predicted
        return Lesson(
            self.model, start, prior, rows, plan, self.variant, first, forgetting, predicted
        )

    def says(self, state: AdapterState, rows: Rows, draws: int) -> np.ndarray:
        """Return what each draw says of each row, (S, N, K) float64, by the version's draws."""
        recipe, task = full(self.model, state, draws), state.spec.predicted
        said = torch.empty(recipe.draws, len(rows), self.model.labels)
        with self.reading(rows) as table, torch.no_grad(), self.model.swapped(recipe.weights):
            for minibatch in table.minibatches(recipe.rows, Generator().manual_seed(0)):
                places = minibatch["positions"]
                logits = self.model.logits(minibatch) / state.spec.temperature
                said[:, places] = recipe.finish(logits.reshape(recipe.draws, len(places), -1))
        return task.draws(said)

    def reading(self, rows: Rows) -> AbstractContextManager[TokenTable | FeatureTable]:
        """Return the rows as tokens, with what the frozen layers make of them where it is kept."""
        text = "\x1e".join(f"{t}\x1f{n}" for t, n in zip(rows.texts, rows.labels, strict=True))
        content = sha256(text.encode()).hexdigest()
        if content not in self._tables:
            chunk = (list(rows.texts), list(rows.labels), list(range(len(rows))))
            self._tables[content] = TokenTable.build(
                [chunk], self.model.base.tokenizer, self.recipe.tokens, self.folder / "tokens",
                content, numbers=not self.spec.predicted.needs.listed,
            )  # fmt: skip
        folder = self.folder / "features"
        return with_features(self._tables[content], self.model, folder, KEPT_FEATURES)

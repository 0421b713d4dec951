"""Predict with fixed draws of the posterior, and say how sure the prediction is.

The draws are fixed by the version's seed and the same for every input, so that a row's score never
depends on the rows beside it. Which weights are drawn is the version's predictor's business
(`bhpeft.learning.predictors`); all draws are folded into one forward pass.

Source: method notes §5; `bhpeft.posterior.predictive` for the decomposition of uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bhpeft.learning.predictors import PREDICTORS, Recipe, full, weights_of
from bhpeft.learning.state import AdapterState
from bhpeft.methods import bypassed
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import PLAIN, Arithmetic
from bhpeft.models.encode import cuts, encode, padded
from bhpeft.models.graphs import Graphs, cuda_graph
from bhpeft.models.tokens import WINDOW
from bhpeft.plugins import resolve
from bhpeft.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

Watch = Callable[[int], None]


@dataclass(frozen=True)
class Predictor:
    """A version that answers: the base model with one state's weights."""

    model: AdaptedModel
    state: AdapterState

    @cached_property
    def task(self) -> Task:
        """Return what is predicted."""
        return self.state.spec.predicted

    @classmethod
    def load(cls, folder: Path | str, arithmetic: Arithmetic = PLAIN) -> Predictor:
        """Load a state folder and the base model it names.

        Args:
            folder: as a version is stored.
            arithmetic: what the base computes in, whatever it was in training.

        Raises:
            StateError: the files are not whole, or lack a weight of the model.
            BaseModelMismatch: the base model's weights are not those it was learned on.
        """
        from bhpeft.learning.build import build_model, check_gauge

        state = AdapterState.load(Path(folder))
        model = build_model(state.spec, arithmetic)
        state.check_base(model.base.fingerprint)
        state.check_layout(model.shapes)
        check_gauge(model, state)
        return cls(model, state)

    def probabilities(
        self, texts: Sequence[str], draws: int | None = None, watch: Watch | None = None
    ) -> np.ndarray:
        """Return what each draw says of each row, (S, N, K) float64: class probabilities, say.

        S = 1 for draws = 0, and for a point estimate, which has nothing to draw; an ensemble has
        as many draws as members at most.

        Args:
            texts: the rows.
            draws: of all weights, whatever the version's predictor is; None for the predictor.
            watch: called with the rows done.
        """
        return self.task.draws(self.logits(texts, self.recipe(draws), watch))

    def base_says(self, texts: Sequence[str]) -> np.ndarray:
        """Return what the frozen base says of each row with every method left out, (1, N, K)."""
        with bypassed(self.model.sites):
            return self.task.draws(self.logits(texts, Recipe({}, 1, self.model.folded_rows)))

    def recipe(self, draws: int | None = None) -> Recipe:
        """Return how the version predicts, or with so many draws of all weights."""
        return self._usual if draws is None else full(self.model, self.state, draws)

    def logits(self, texts: Sequence[str], recipe: Recipe, watch: Watch | None = None) -> Tensor:
        """Return the logits of each text under each draw of a recipe, (S, N, outputs)."""
        said: list[Tensor] = []
        order: list[np.ndarray] = []
        run = self._run(recipe)
        with torch.no_grad(), self.model.swapped(recipe.weights):
            for rows, minibatch in self.minibatches(texts, recipe.rows):
                logits = run(minibatch)
                logits = logits / self.state.spec.temperature
                said.append(recipe.finish(logits.reshape(recipe.draws, len(rows), -1)).cpu())
                order.append(rows)
                if watch:
                    watch(len(rows))
        if not said:
            return recipe.finish(torch.empty(recipe.draws, 0, self.model.labels))
        return torch.cat(said, dim=1)[:, np.argsort(np.concatenate(order))]

    def predict(self, texts: Sequence[str], draws: int | None = None) -> pd.DataFrame:
        """Return the task's answer to each text, how sure it is, and whether it abstains.

        A prediction abstains when its uncertainty is above the threshold the version was
        registered with.
        """
        spec = self.state.spec
        said = self.probabilities(texts, draws)
        return self.task.predict(said, spec.labels, spec.abstain_above)

    def choose(
        self,
        questions: Sequence[str],
        options: Sequence[Sequence[str]],
        draws: int | None = None,
    ) -> pd.DataFrame:
        """Return the task's answer to each question among its own options, as `predict` does."""
        spec = self.state.spec
        asked = self.task.inputs(questions, options, spec.labels)
        said = self.probabilities(asked, draws)
        said = self.task.restricted(said, np.array([len(row) for row in options], dtype=np.int64))
        return self.task.predict(said, spec.labels, spec.abstain_above)

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return the frozen base's vector of each text, (N, d) float32."""
        out = np.empty((len(texts), self.model.head.width), dtype=np.float32)
        for rows, minibatch in self.minibatches(texts, self.model.folded_rows):
            out[rows] = self.model.embed(minibatch).cpu().numpy()
        return out

    def encode(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the texts as one padded minibatch."""
        tokenizer = self.model.base.tokenizer
        return padded(
            encode(tokenizer, texts, self.state.spec.max_length), int(tokenizer.pad_token_id)
        )

    @cached_property
    def _usual(self) -> Recipe:
        """Return how the version predicts: its draws are the same whenever it is asked."""
        spec = self.state.spec
        if self.state.posterior.size == 0:
            return full(self.model, self.state, spec.draws)
        return resolve("predictor", spec.predictor, PREDICTORS)(self.model, self.state, spec.draws)

    def _run(self, recipe: Recipe) -> Callable[[Mapping[str, Tensor]], Tensor]:
        """Return what makes a minibatch's logits; on a GPU recorded, if it will be asked again."""
        if recipe.run is not None:
            return recipe.run
        again = recipe is self._usual and self.model.device.type == "cuda"
        return self._recorded if again else self.model.logits

    @cached_property
    def _recorded(self) -> Graphs:
        pad = int(self.model.base.tokenizer.pad_token_id)
        return Graphs(self.model.logits, self._usual.draws, pad, cuda_graph, self.model.device)

    def minibatches(
        self, texts: Sequence[str], most: int
    ) -> Iterator[tuple[np.ndarray, Mapping[str, Tensor]]]:
        """Yield rows of similar length, at most so many at a time, and which they are."""
        tokenizer, pad = self.model.base.tokenizer, int(self.model.base.tokenizer.pad_token_id)
        for first in range(0, len(texts), WINDOW):
            window = texts[first : first + WINDOW]
            tokens = encode(tokenizer, window, self.state.spec.max_length)
            for rows in cuts([len(row) for row in tokens], most):
                yield rows + first, padded([tokens[row] for row in rows], pad)

    def weights(self, draws: int) -> dict[str, Tensor]:
        """Return the version's first `draws` fixed draws by name, or for 0 its mean weights.

        An ensemble's draws are its members; for 0 it is the first of them, since the mean of
        members that started apart is none of them.
        """
        return weights_of(self.model, self.state, draws)

"""Predict with fixed draws of the posterior, and say how sure the prediction is.

The S draws are fixed by the version's seed and the same for every input, so that a row's score
never depends on the rows beside it. All S are folded into one forward pass.

Source: method notes §5; `bhpeft.posterior.predictive` for the decomposition of uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from bhpeft.learning.state import AdapterState
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import PLAIN, Arithmetic
from bhpeft.models.encode import encode, padded
from bhpeft.posterior import unflatten
from bhpeft.posterior.predictive import mean_probability, mutual_information, predictive_entropy

if TYPE_CHECKING:
    import pandas as pd

# Rows times draws of one forward pass: fills the matrix units and fits any memory.
FOLDED_ROWS = 256

Watch = Callable[[int], None]


@dataclass(frozen=True)
class Predictor:
    """A version that answers: the base model with one state's weights."""

    model: AdaptedModel
    state: AdapterState

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
        from bhpeft.learning.build import build_model

        state = AdapterState.load(Path(folder))
        model = build_model(state.spec, arithmetic)
        state.check_base(model.base.fingerprint)
        state.check_layout(model.shapes)
        return cls(model, state)

    def probabilities(
        self, texts: Sequence[str], draws: int | None = None, watch: Watch | None = None
    ) -> np.ndarray:
        """Return each draw's class probabilities, (S, N, C) float64.

        S = 1 for draws = 0, and for a point estimate, which has nothing to draw.
        """
        count = self.state.spec.draws if draws is None else draws
        if self.state.posterior.size == 0:
            count = 0
        folded = max(1, FOLDED_ROWS // max(1, count))
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        out = np.empty((max(1, count), len(texts), len(self.state.spec.labels)))
        with torch.no_grad(), self.model.swapped(self.weights(count)):
            for begin in range(0, len(texts), folded):
                rows = order[begin : begin + folded]
                minibatch = self.encode([texts[row] for row in rows])
                out[:, rows] = _softmax(self.model.logits(minibatch), max(1, count))
                if watch:
                    watch(len(rows))
        return out

    def predict(self, texts: Sequence[str], draws: int | None = None) -> pd.DataFrame:
        """Return a row a text: label, probability, entropy, mutual_information, abstain.

        Entropy and mutual information are in nats; a prediction abstains when its entropy is above
        the threshold the version was registered with.
        """
        import pandas as pd

        labels = np.array(self.state.spec.labels, dtype=object)
        probs = torch.from_numpy(self.probabilities(texts, draws))
        best, index = mean_probability(probs).max(-1)
        entropy = predictive_entropy(probs)
        return pd.DataFrame(
            {
                # Said outright, or an empty table would have a column of another type.
                "label": pd.Series(labels[index.numpy()], dtype="str"),
                "probability": best.numpy(),
                "entropy": entropy.numpy(),
                "mutual_information": mutual_information(probs).numpy(),
                "abstain": (entropy > self.state.spec.abstain_above).numpy(),
            }
        )

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return the frozen base's vector of each text, (N, d) float32."""
        out = np.empty((len(texts), self.model.head.width), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for begin in range(0, len(texts), FOLDED_ROWS):
            rows = order[begin : begin + FOLDED_ROWS]
            out[rows] = self.model.embed(self.encode([texts[row] for row in rows])).cpu().numpy()
        return out

    def encode(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the texts as one padded minibatch."""
        tokenizer = self.model.base.tokenizer
        return padded(
            encode(tokenizer, texts, self.state.spec.max_length), int(tokenizer.pad_token_id)
        )

    def weights(self, draws: int) -> dict[str, Tensor]:
        """Return the version's first `draws` fixed draws by name, or for 0 its mean weights."""
        q = self.state.posterior.to(self.model.device)
        point = {name: value.to(self.model.device) for name, value in self.state.point.items()}
        if draws == 0 or q.size == 0:
            return unflatten(q.mean, q.shapes) | point
        generator = Generator().manual_seed(self.state.spec.seed)
        noise = q.noise(generator, draws, antithetic=draws % 2 == 0)
        return unflatten(q.at(noise), q.shapes) | point


def _softmax(logits: Tensor, draws: int) -> np.ndarray:
    """Return logits (S·B, C) as probabilities (S, B, C) float64."""
    probs = logits.double().softmax(-1).reshape(draws, -1, logits.shape[-1])
    return np.asarray(probs.cpu().numpy())

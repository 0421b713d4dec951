"""Predict a number: a Gaussian whose mean is linear in the pooled text, and one σ for all rows.

    p(y | x, weights) = N( y; a + b·(w·h(x) + w0), b²·exp(v) )

a and b are mean and standard deviation of the first round's training answers, kept with the state,
so that the weights always see answers of unit size. v is a point weight: homoscedastic noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, pi
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bhpeft.tasks.numerical import FIGURES, Numerical
from bhpeft.tasks.scored import Figures
from bhpeft.tasks.task import Needs

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from bhpeft.models.heads import HeadFactory


@dataclass(frozen=True)
class Regression:
    """One number a row, with a Gaussian likelihood.

    Attributes:
        mean, std: of the first round's training answers; measured, not set.
    """

    name: ClassVar[str] = "regression"
    needs: ClassVar[Needs] = Needs(
        roles=("text", "target"), answer="target", types=("number", "integer"), listed=False
    )
    figures: ClassVar[Figures] = FIGURES
    asked: ClassVar[Mapping[str, str]] = MappingProxyType({"text": "string"})
    against_base: ClassVar[bool] = False
    answers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "value": "double",
            "std": "double",
            "epistemic_std": "double",
            "low": "double",
            "high": "double",
            "abstain": "boolean",
        }
    )

    mean: float = 0.0
    std: float = 1.0

    def knowing(self, tally: Sequence[float]) -> Regression:
        """Return the task in the units of the first round's answers; all equal, they have none."""
        if not len(tally):
            return self
        return replace(self, mean=float(tally[0]), std=float(tally[1]) or 1.0)

    def head(self, labels: Sequence[str]) -> HeadFactory:
        """Return a linear head for the mean, with the log-variance beside it."""
        from bhpeft.models.heads import GaussianHead

        return GaussianHead

    def inputs(
        self, texts: Sequence[str], options: Sequence[Sequence[Any]], labels: Sequence[str]
    ) -> list[str]:
        """Return the texts."""
        return list(texts)

    def outputs(self, labels: Sequence[str]) -> int:
        """Return 2: a mean and a log-variance, in units of the first round's answers."""
        return 2

    def targets(self, answers: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
        """Return the numbers as they are, (N,) float64."""
        return np.asarray(answers, dtype=np.float64)

    def tally(self, targets: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
        """Return mean and standard deviation."""
        everything = np.concatenate([np.empty(0), *targets])
        if not len(everything):
            return np.array([0.0, 1.0])
        # A baseline whose answers were all equal would have no density at any other.
        return np.array([everything.mean(), max(float(everything.std()), 1e-6)])

    def loss(self, logits: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean negative log-density of the answers, in nats and their own units."""
        logits = logits.float()
        answers = minibatch["labels"].to(logits.device)
        standard = ((answers - self.mean) / self.std).to(logits.dtype)
        mean, variance = logits[:, 0], logits[:, 1]
        nll = 0.5 * ((standard - mean) ** 2 * (-variance).exp() + variance).mean()
        return nll + 0.5 * log(2 * pi) + log(self.std)

    def restricted(self, draws: np.ndarray, options: np.ndarray) -> np.ndarray:
        """Return the draws: a number has no labels."""
        return draws

    def draws(self, logits: Tensor) -> np.ndarray:
        """Return each draw's mean and standard deviation, in the answers' units."""
        found = logits.double().cpu().numpy()
        mean = self.mean + self.std * found[..., 0]
        return np.stack([mean, self.std * np.exp(0.5 * found[..., 1])], axis=-1)

    def scored(self, draws: np.ndarray, targets: np.ndarray) -> Numerical:
        """Return the Gaussians beside the answers."""
        return Numerical(draws, targets)

    def predict(
        self, draws: np.ndarray, labels: Sequence[str], abstain_above: float
    ) -> pd.DataFrame:
        """Return value, std, epistemic_std, the 90 % interval's low and high, and abstain."""
        import pandas as pd

        found = Numerical(draws, np.zeros(draws.shape[1]))
        low, high = found.interval
        return pd.DataFrame(
            {
                "value": found.mean,
                "std": found.uncertainty,
                "epistemic_std": np.sqrt(found.epistemic),
                "low": low,
                "high": high,
                "abstain": found.uncertainty > abstain_above,
            }
        )

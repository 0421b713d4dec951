"""Go on with texts: a causal language model whose methods learn the texts of a stream.

A row is a text and its own answer: every token after the first is predicted from those before it,
by the frozen language model's own output rows. Padding is neither predicted nor counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bhpeft.tasks.scored import Figures
from bhpeft.tasks.sequences import FIGURES, Texts
from bhpeft.tasks.task import Needs

if TYPE_CHECKING:
    import pandas as pd
    from torch import Generator, Tensor

    from bhpeft.models.heads import HeadFactory
    from bhpeft.models.load import LoadedBase
    from bhpeft.models.token_head import TokenHead


@dataclass(frozen=True)
class CausalLM:
    """The next token of a text, from the first to the last."""

    name: ClassVar[str] = "causal_lm"
    needs: ClassVar[Needs] = Needs(roles=("text",), answer="", types=(), listed=False)
    figures: ClassVar[Figures] = FIGURES
    asked: ClassVar[Mapping[str, str]] = MappingProxyType({"text": "string"})
    against_base: ClassVar[bool] = True
    answers: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "nll": "double",
            "perplexity": "double",
            "tokens": "double",
            "entropy": "double",
            "mutual_information": "double",
            "abstain": "boolean",
        }
    )

    def knowing(self, tally: Sequence[float]) -> CausalLM:
        """Return itself: tokens have no units."""
        return self

    def head(self, labels: Sequence[str]) -> HeadFactory:
        """Return the language model's own output rows."""

        def make(base: LoadedBase, outputs: int, generator: Generator) -> TokenHead:
            from bhpeft.models.token_head import TokenHead

            return TokenHead(base)

        return make

    def inputs(
        self, texts: Sequence[str], options: Sequence[Sequence[Any]], labels: Sequence[str]
    ) -> list[str]:
        """Return the texts."""
        return list(texts)

    def outputs(self, labels: Sequence[str]) -> int:
        """Return 4: log-likelihood, tokens, and a token's entropy by the draw and by all draws."""
        return 4

    def targets(self, answers: Sequence[Any], labels: Sequence[str]) -> np.ndarray:
        """Return zeros: a text is its own answer."""
        return np.zeros(len(answers))

    def tally(self, targets: Sequence[np.ndarray], labels: Sequence[str]) -> np.ndarray:
        """Return nothing."""
        return np.empty(0)

    def loss(self, logits: Tensor, minibatch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over rows of −log p(text), a sum over its true tokens."""
        return -logits[:, 0].mean()

    def restricted(self, draws: np.ndarray, options: np.ndarray) -> np.ndarray:
        """Return the draws: a text has no labels."""
        return draws

    def draws(self, logits: Tensor) -> np.ndarray:
        """Return what the head says of each text."""
        return np.asarray(logits.double().cpu().numpy())

    def scored(self, draws: np.ndarray, targets: np.ndarray) -> Texts:
        """Return the likelihoods, ready to be judged."""
        return Texts(draws)

    def predict(
        self, draws: np.ndarray, labels: Sequence[str], abstain_above: float
    ) -> pd.DataFrame:
        """Return a token's NLL, perplexity, entropy and mutual information in each text."""
        import pandas as pd

        found = Texts(draws)
        nll = found.signals["nll"]
        return pd.DataFrame(
            {
                "nll": nll,
                "perplexity": np.exp(np.minimum(nll, 700.0)),
                "tokens": found.weights,
                "entropy": found.uncertainty,
                "mutual_information": found.mutual_information,
                "abstain": found.uncertainty > abstain_above,
            }
        )

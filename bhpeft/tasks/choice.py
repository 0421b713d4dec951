"""Answer a question by one of its options, with a causal language model and no head of its own.

    question
    A. first option
    B. second option
    Answer:

What the frozen language model says of the next token, among the options' labels alone, is the
distribution over options: categorical, as a classifier's, over as many labels as a row has options.

    question
    Answer: one option after the other

With `scoring = "answers"` each option is read out after the question instead, and the distribution
over options is the softmax of their log-likelihoods: of the whole answer, or of a token of it
(`per_token`), since a longer answer is less likely whatever it says.

Sources: the restricted answer logits of BLoB's commonsense setting, arXiv 2406.11675 §5; scoring of
whole answers and its length bias: Brown et al. 2020 (arXiv 2005.14165) §2.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bhpeft.errors import ConfigError
from bhpeft.models.packing import packed
from bhpeft.tasks.chosen import FIGURES, Chosen
from bhpeft.tasks.classification import Classification
from bhpeft.tasks.scored import Figures
from bhpeft.tasks.task import Needs

if TYPE_CHECKING:
    from torch import Generator

    from bhpeft.models.answer_head import AnswerHead
    from bhpeft.models.heads import HeadFactory, WordHead
    from bhpeft.models.load import LoadedBase


SCORINGS = ("labels", "answers")
# The smallest normal float64, as in the NLL of what never was said.
_LEAST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Choice(Classification):
    """One of a row's options: a classification over as many labels as there are options.

    Attributes:
        scoring: "labels", by the option's label as the next token; "answers", by its whole text.
        per_token: whether an answer's log-likelihood is divided by its length in tokens.
    """

    scoring: str = "labels"
    per_token: bool = True

    name: ClassVar[str] = "choice"
    figures: ClassVar[Figures] = FIGURES
    needs: ClassVar[Needs] = Needs(
        roles=("question", "answer"),
        answer="answer",
        types=("string", "integer"),
        listed=True,
        options="option",
        option_list="options",
    )
    asked: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"question": "string", "options": "strings"}
    )

    def __post_init__(self) -> None:
        """Refuse a scoring nobody knows.

        Raises:
            ConfigError: it is neither of the two.
        """
        if self.scoring not in SCORINGS or not isinstance(self.per_token, bool):
            raise ConfigError(
                "A choice cannot be scored so",
                found=f"scoring = {self.scoring!r}, per_token = {self.per_token!r}",
                expected=f"scoring = {' or '.join(map(repr, SCORINGS))}; per_token true or false",
            )

    def head(self, labels: Sequence[str]) -> HeadFactory:
        """Return the language model's own rows: for the labels, or for every word of an answer."""

        def make(base: LoadedBase, outputs: int, generator: Generator) -> WordHead | AnswerHead:
            # The end of a question that is too long is what is asked.
            base.tokenizer.truncation_side = "left"
            if self.scoring == "answers":
                from bhpeft.models.answer_head import AnswerHead

                return AnswerHead(base, outputs, self.per_token)
            from bhpeft.models.heads import WordHead

            return WordHead(base, labels)

        return make

    def inputs(
        self, texts: Sequence[str], options: Sequence[Sequence[Any]], labels: Sequence[str]
    ) -> list[str]:
        """Return each question with its options and the words before the answer."""
        if self.scoring == "answers":
            return [
                packed([f"{text.strip()}\nAnswer:", *(str(o).strip() for o in row if is_there(o))])
                for text, row in zip(texts, options, strict=True)
            ]
        return [
            "\n".join(
                [
                    text.strip(),
                    *(
                        f"{label}. {str(option).strip()}"
                        for label, option in zip(labels, row, strict=False)
                        if is_there(option)
                    ),
                    "Answer:",
                ]
            )
            for text, row in zip(texts, options, strict=True)
        ]

    def restricted(self, draws: np.ndarray, options: np.ndarray) -> np.ndarray:
        """Return the probabilities among each row's options, none of which is impossible.

        Of a long answer next to a short one float64 knows no probability but 0.
        """
        return super().restricted(np.maximum(draws, _LEAST), options)

    def scored(self, draws: np.ndarray, targets: np.ndarray) -> Chosen:
        """Return the probabilities beside the right options."""
        return Chosen(draws, targets)


def is_there(option: Any) -> bool:
    """Say whether a row has this option; a table without it holds a null."""
    return isinstance(option, str) and bool(option.strip())

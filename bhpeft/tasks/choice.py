"""Answer a question by one of its options, with a causal language model and no head of its own.

    question
    A. first option
    B. second option
    Answer:

What the frozen language model says of the next token, among the options' labels alone, is the
distribution over options: categorical, as a classifier's, over as many labels as a row has options.

Source: the restricted answer logits of BLoB's commonsense setting, arXiv 2406.11675 §5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from bhpeft.tasks.classification import Classification
from bhpeft.tasks.task import Needs

if TYPE_CHECKING:
    from torch import Generator

    from bhpeft.models.heads import HeadFactory, WordHead
    from bhpeft.models.load import LoadedBase


@dataclass(frozen=True)
class Choice(Classification):
    """One of a row's options: a classification over as many labels as there are options."""

    name: ClassVar[str] = "choice"
    needs: ClassVar[Needs] = Needs(
        roles=("question", "answer"),
        answer="answer",
        types=("string", "integer"),
        listed=True,
        options="option",
    )
    asked: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"question": "string", "options": "strings"}
    )

    def head(self, labels: Sequence[str]) -> HeadFactory:
        """Return the language model's own rows for the labels."""

        def make(base: LoadedBase, outputs: int, generator: Generator) -> WordHead:
            from bhpeft.models.heads import WordHead

            # The end of a question that is too long is what is asked.
            base.tokenizer.truncation_side = "left"
            return WordHead(base, labels)

        return make

    def inputs(
        self, texts: Sequence[str], options: Sequence[Sequence[Any]], labels: Sequence[str]
    ) -> list[str]:
        """Return each question with its options and the words before the answer."""
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


def is_there(option: Any) -> bool:
    """Say whether a row has this option; a table without it holds a null."""
    return isinstance(option, str) and bool(option.strip())

"""Carry a question and the answers that are read out after it in one row.

A row of such a task is one text, and one list of tokens, in which a separator stands between the
question and each answer. The head takes it apart into a sequence an answer (`answer_head`).
"""

from __future__ import annotations

from collections.abc import Sequence

# A character that means just that, and that no tokenizer is asked about.
SEPARATOR = "\x1e"


def packed(parts: Sequence[str]) -> str:
    """Return a question and its answers as one text."""
    return SEPARATOR.join(part.replace(SEPARATOR, " ") for part in parts)


def room(question: Sequence[int], answers: Sequence[Sequence[int]], most: int) -> list[int]:
    """Return as much of a question's end as fits before the longest answer, one token at least."""
    left = max(1, most - max((len(answer) for answer in answers), default=0))
    return list(question[-left:])


def joined(question: Sequence[int], answers: Sequence[Sequence[int]], pad: int) -> list[int]:
    """Return the tokens of a row, the padding token between its parts."""
    row = list(question)
    for answer in answers:
        row += [pad, *answer]
    return row


def parts_of(row: Sequence[int], pad: int) -> list[list[int]]:
    """Return what `joined` joined: the question first."""
    parts: list[list[int]] = [[]]
    for token in row:
        if token == pad:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts

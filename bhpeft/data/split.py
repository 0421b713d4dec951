"""Put every row on one side for ever: train, selection or hold-out, by a hash of its text.

A gate's hold-out is honest only if no version of the chain ever learned from it. Rows come back:
in the next batch, in a re-delivery, with a corrected label. A random split would put them on
another side by then, and the champion would be examined on what its ancestors were taught. So the
side is a property of the text itself; not of the batch, the row's place, its key or its label.
Case and white space do not count, since a copy that differs only in them is the same example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

# Part of every hash, so that a data set once split by a plain hash of its text is split afresh.
_PERSON = b"bhpeft.split"


@dataclass(frozen=True)
class Fractions:
    """Say what share of texts goes to which side.

    Changing them moves texts between sides, so they are fixed for a stream's life.
    """

    train: float = 0.7
    selection: float = 0.1
    holdout: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.train, self.selection, self.holdout)
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError(f"the fractions {shares} must be at least 0 and add up to 1")


def side_of(texts: Sequence[str], fractions: Fractions = Fractions()) -> np.ndarray:
    """Return the side of each text: "train", "selection" or "holdout"; shape (N,)."""
    return side_at(position_of(texts), fractions)


def side_at(place: np.ndarray, fractions: Fractions = Fractions()) -> np.ndarray:
    """Return the side of each place in [0, 1); training is what comes first."""
    edges = np.array([fractions.train, fractions.train + fractions.selection])
    sides = np.array(["train", "selection", "holdout"])
    return sides[np.searchsorted(edges, place, side="right")]


def position_of(texts: Sequence[str]) -> np.ndarray:
    """Return each text's place in [0, 1), evenly spread and always the same; shape (N,) float64."""
    digests = b"".join(
        blake2b(
            " ".join(text.casefold().split()).encode("utf-8", "surrogatepass"),
            digest_size=8,
            person=_PERSON,
        ).digest()
        for text in texts
    )
    # 53 bits are what a float64 holds exactly; more could round up to 1.
    return (np.frombuffer(digests, dtype=">u8") >> np.uint64(11)) * 2.0**-53

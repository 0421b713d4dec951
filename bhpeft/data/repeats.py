"""Find rows that repeat an earlier row, however far apart, in memory that does not grow.

Sixteen bytes a row are remembered, its hash and its number: in memory while they are few, then in
a file without a name. Equal rows have equal hashes, so those of one range after another are looked
at, each range small enough for memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from tempfile import SpooledTemporaryFile

import numpy as np
import pandas as pd

# A row's hash and number.
_ENTRY = np.dtype([("hash", np.uint64), ("row", np.int64)])

# Entries kept in memory, read from the file at a time, and sorted at a time: 8 MB of each.
_AT_ONCE = 2**19


class Repeats:
    """Collect 64-bit hashes of some columns and say which rows came before.

    Two different rows share a hash with probability n²/2⁶⁵: 3e-6 for ten million rows.
    """

    def __init__(self, columns: Sequence[str]):
        self.columns = list(columns)
        self._count = 0
        self._file = SpooledTemporaryFile(max_size=_AT_ONCE * _ENTRY.itemsize)  # noqa: SIM115
        # It goes with what remembers in it, also when the batch turns out to be unreadable.
        weakref.finalize(self, self._file.close)

    def add(self, frame: pd.DataFrame) -> None:
        """Take in rows, numbered by the frame's index; rows with a null are left out."""
        whole = frame[self.columns].dropna()
        entries = np.empty(len(whole), dtype=_ENTRY)
        entries["hash"] = pd.util.hash_pandas_object(whole, index=False, categorize=False)
        entries["row"] = whole.index
        self._file.write(entries.tobytes())
        self._count += len(entries)

    def rows(self) -> np.ndarray:
        """Return the numbers of all rows that repeat an earlier one, ascending."""
        bits = max(0, self._count - 1).bit_length() - (_AT_ONCE - 1).bit_length()
        ranges = (self._of_range(part, max(0, bits)) for part in range(2 ** max(0, bits)))
        return np.sort(np.concatenate([_repeated(entries) for entries in ranges]))

    def _of_range(self, part: int, bits: int) -> np.ndarray:
        """Return the entries whose hashes begin with the `bits` bits of `part`, in row order."""
        if bits == 0:
            return np.concatenate([np.empty(0, _ENTRY), *self._entries()])
        shift = np.uint64(64 - bits)
        found = [some[some["hash"] >> shift == part] for some in self._entries()]
        return np.concatenate(found)

    def _entries(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        while piece := self._file.read(_AT_ONCE * _ENTRY.itemsize):
            yield np.frombuffer(piece, dtype=_ENTRY)


def _repeated(entries: np.ndarray) -> np.ndarray:
    """Return the row numbers of entries whose hash an earlier entry has."""
    order = np.argsort(entries["hash"], kind="stable")
    hashes = entries["hash"][order]
    found: np.ndarray = entries["row"][order[1:][hashes[1:] == hashes[:-1]]]
    return found

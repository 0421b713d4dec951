"""Keep what frozen layers made of each row in one memory-mapped file, real tokens only.

A file is complete or it is not there: rows go into a file of another name, which is given its own
when the last row is in. Its space is reserved at the start, because a full disk would otherwise
show itself in the middle of a round as a signal that ends the process. A folder holds so many bytes
at most; what was used least recently makes room.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUFFIX, PARTIAL = ".features", ".partial"

# NumPy has no bfloat16: its bits are kept.
_BITS = {torch.float32: np.float32, torch.bfloat16: np.uint16}


class FeatureFile:
    """Hidden states of rows of known lengths: (tokens of all rows, d) in the model's dtype.

    Attributes:
        complete: whether every row is in.
    """

    def __init__(self, path: Path, ends: NDArray[np.int64], width: int, dtype: torch.dtype):
        self._path, self._ends, self._dtype = path, ends, dtype
        self._starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
        self.complete = path.exists()
        self._missing = np.ones(len(ends), dtype=bool)
        self._desk = path if self.complete else _reserved(path, size_of(ends, width, dtype))
        shape = (int(ends[-1]), width)
        mode = "r" if self.complete else "r+"
        self._rows = np.memmap(self._desk, dtype=_BITS[dtype], mode=mode, shape=shape)  # type: ignore[call-overload]
        if self.complete:
            os.utime(path)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the hidden states of some rows, (B, T, d), zeros behind the shorter ones."""
        lengths = self._ends[rows] - self._starts[rows]
        out = np.zeros((len(rows), int(lengths.max()), self._rows.shape[1]), self._rows.dtype)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            out[i, :length] = self._rows[self._starts[row] : self._ends[row]]
        found = torch.from_numpy(out)
        return found if self._dtype == torch.float32 else found.view(self._dtype)

    def write(self, rows: NDArray[np.int64], hidden: Tensor) -> None:
        """Put in the hidden states (B, T, d) of some rows; the last ones complete the file."""
        bits = hidden.cpu() if self._dtype == torch.float32 else hidden.cpu().view(torch.uint16)
        for row, values in zip(rows, bits.numpy(), strict=True):
            start, end = self._starts[row], self._ends[row]
            self._rows[start:end] = values[: end - start]
        self._missing[rows] = False
        if not self._missing.any():
            self._rows.flush()
            os.replace(self._desk, self._path)
            self.complete = True

    def knows(self, rows: NDArray[np.int64]) -> bool:
        """Say whether all these rows are in."""
        return self.complete or not self._missing[rows].any()

    def drop_if_partial(self) -> None:
        """Remove what was not completed."""
        if not self.complete:
            self._desk.unlink(missing_ok=True)


def feature_file(
    path: Path, ends: NDArray[np.int64], width: int, dtype: torch.dtype, limit: int
) -> FeatureFile | None:
    """Open the file at `path`, or begin it; None where it has no room.

    Args:
        path: named by all that decides what is in it.
        ends: where each row's tokens end among those of all, (N,).
        width: d.
        dtype: of the hidden states.
        limit: bytes that the folder may hold.
    """
    size = size_of(ends, width, dtype)
    if size > limit:
        _log(f"{size:,} bytes of features do not fit into {limit:,}")
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _make_room(path.parent, limit - size)
        return FeatureFile(path, ends, width, dtype)
    except OSError as problem:
        _log(f"features cannot be kept in {path.parent}: {problem}")
        return None


def size_of(ends: NDArray[np.int64], width: int, dtype: torch.dtype) -> int:
    """Return the bytes of the features of rows that end there."""
    return int(ends[-1]) * width * np.dtype(_BITS[dtype]).itemsize


def _reserved(path: Path, size: int) -> Path:
    with NamedTemporaryFile(dir=path.parent, suffix=PARTIAL, delete=False) as file:
        desk = Path(file.name)
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            desk.unlink()
            raise
    return desk


def _make_room(folder: Path, limit: int) -> None:
    """Remove what was used least recently until the folder holds no more than `limit` bytes."""
    files = [file for file in folder.iterdir() if file.suffix in (SUFFIX, PARTIAL)]
    held = sum(file.stat().st_size for file in files)
    for file in sorted(files, key=lambda file: file.stat().st_mtime):
        if held <= limit:
            return
        held -= file.stat().st_size
        file.unlink()


def _log(line: str) -> None:
    logging.getLogger(__name__).info("Layers below the adapted ones run in every epoch: %s", line)

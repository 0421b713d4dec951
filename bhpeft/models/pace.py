"""Choose how a model is run here, by measuring it: threads, layout, folded rows, attention's turn.

What a base computes in is settled before (`bhpeft.models.arithmetic`). What is left changes no
number beyond rounding, only how long it takes: how many threads share a product, whether frozen
weights are laid out for it once, how many rows times draws make one pass of a prediction, and up to
how many tokens the explicit attention beats the fused one. Each is timed on one layer of the
model's sizes, a second or two together, once a machine and model.

On a GPU none of it is measured: threads do not matter there, passes are as large as is usual, and
attention is the fused one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedConfig

from bhpeft.methods.attention import EXPLICIT_TOKENS
from bhpeft.models.arithmetic import Arithmetic
from bhpeft.models.measured import kept, key_of
from bhpeft.threads import usable_cores

# Rows times draws of one forward pass: enough to fill the matrix units. More leave the caches, and
# pad more: on a CPU eight draws of a row take 56 ms at 32, 62 at 128 and 70 at 256.
FOLDED_ROWS = 64
FOLDED_ROWS_ON_A_GPU = 256
FOLDS = (16, 32, 64, 128)
# More rows have to be worth their padding, and other threads than the usual their neighbours.
WORTH_MORE_ROWS, WORTH_OTHER_THREADS = 1.05, 1.1

# Lengths at which the two attentions are compared.
LENGTHS = (128, 256, 512)

Key = TypeVar("Key")


@dataclass(frozen=True)
class Pace:
    """How a model is run; None is to be measured.

    Attributes:
        threads: of the CPU, for the whole process.
        folded_rows: rows times draws of one forward pass, at most.
        explicit_tokens: how long rows may be for the explicit attention, where it is used at all.
        laid_out: whether frozen weights are laid out once (`bhpeft.methods.laid_out`).
    """

    threads: int | None = None
    folded_rows: int | None = None
    explicit_tokens: int | None = None
    laid_out: bool | None = None

    @property
    def settled(self) -> bool:
        """Say whether nothing is left to be measured."""
        return None not in asdict(self).values()

    def filled(self, other: Pace) -> Pace:
        """Return it with another's values where it has none."""
        mine = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(other, **mine)


def usual(device: torch.device) -> Pace:
    """Return the pace of a model nobody measured."""
    rows = FOLDED_ROWS if device.type == "cpu" else FOLDED_ROWS_ON_A_GPU
    return Pace(torch.get_num_threads(), rows, EXPLICIT_TOKENS, laid_out=False)


@cache
def most_threads() -> int:
    """Return how many threads the process had when this was first asked, within its quota.

    What the operator said stands, be it more.
    """
    told = "OMP_NUM_THREADS" in os.environ
    return torch.get_num_threads() if told else min(torch.get_num_threads(), usable_cores())


def settle_threads(
    said: int | None,
    config: PreTrainedConfig,
    fingerprint: str,
    device: torch.device,
    folder: Path | None = None,
) -> int:
    """Return with how many threads to compute: as was said, or as many as are fastest.

    It comes first, since what else is measured is measured with them. No more are tried than the
    process was started with; the arguments are `settle_pace`'s.
    """
    most = most_threads()
    if said is not None or device.type != "cpu" or most == 1:
        return said or most

    def measure() -> Pace:
        from bhpeft.models.trial_pass import quickest_threads

        return Pace(threads=quickest_threads(config))

    with threaded(most):
        found = kept(key_of("threads", fingerprint), Pace, measure, folder)
    return found.threads or most


@contextmanager
def threaded(count: int) -> Iterator[None]:
    """Compute with so many threads within a `with` block."""
    usual_threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual_threads)


def settle_pace(
    wanted: Pace,
    arithmetic: Arithmetic,
    config: PreTrainedConfig,
    fingerprint: str,
    device: torch.device,
    folder: Path | None = None,
) -> Pace:
    """Return `wanted` with what it leaves open as it is fastest here, with the threads as they are.

    Args:
        wanted: what is said outright stays.
        arithmetic: what the base computes in, settled.
        config: of the base model.
        fingerprint: of the base model.
        device: where it will compute.
        folder: where measurements are kept; `cache_folder()` by default.
    """
    if wanted.settled or device.type != "cpu":
        return wanted.filled(usual(device))

    def measure() -> Pace:
        from bhpeft.models.trial_pass import measured

        return measured(wanted, arithmetic, config)

    wanted = wanted.filled(Pace(threads=torch.get_num_threads()))
    said = (*asdict(wanted).values(), arithmetic.dtype, arithmetic.attention)
    key = key_of("pace", *said, fingerprint)
    return kept(key, Pace, measure, folder)


def fewest_rows(seconds: Mapping[int, float]) -> int:
    """Return the fewest folded rows whose passes take hardly longer a row than the best."""
    a_row = {rows: taken / rows for rows, taken in seconds.items()}
    best = min(a_row.values())
    return min(rows for rows, taken in a_row.items() if taken <= WORTH_MORE_ROWS * best)


def fastest_threads(seconds: Mapping[int, float]) -> int:
    """Return the first number of threads, or another that is faster by more than chance."""
    first = next(iter(seconds))
    best = min(seconds, key=lambda count: seconds[count])
    return best if seconds[best] * WORTH_OTHER_THREADS < seconds[first] else first


def longest(gains: Mapping[int, float], at_least: int) -> int:
    """Return up to how many tokens the explicit attention is faster.

    Args:
        gains: tokens → the seconds it takes over the fused one's, shortest first.
        at_least: where it is known to be.
    """
    for tokens, ratio in gains.items():
        if ratio >= 1.0:
            return at_least
        at_least = tokens
    return at_least

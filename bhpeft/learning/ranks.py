"""Share a round's training among processes: each takes some rows of every minibatch.

    rows        rank r of R reads rows r, r + R, r + 2R, … of each minibatch
    draws       every rank makes its own, so that a minibatch of R ranks has R draws
    gradients   those of all ranks are averaged over the rows, in one flat vector a minibatch
    KL          is added afterwards, once, with N the rows of the whole batch

A minibatch, a step and an epoch mean the same on one process and on many: what a plan says, how far
rho travels and what a round costs in steps do not depend on the machine. Each row's gradient has
the same expectation whoever draws for it, so the estimator's does not change either; its variance
falls, as R draws a minibatch err less than one.

All that decides anything (the joined gradients, the Fisher averages, the curve) is the same number
on every rank, so all ranks take the same steps and end together; `check_same` makes sure of it.

Source: Li et al. 2020 (arXiv 2006.15704) for data-parallel gradients in one flat buffer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from bhpeft.errors import RanksFailed


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes:
        rank: from 0.
        size: R.
    """

    rank: int = 0
    size: int = 1

    @property
    def share(self) -> tuple[int, int]:
        """Return which rows of a minibatch are ours: one in so many, from which on."""
        return self.rank, self.size

    def source(self, generator: Generator) -> Generator:
        """Return the source of this rank's next noise, given the one that all have in common.

        All ranks move the common source by the same, so that what is kept of it restores them all.
        """
        if self.size == 1:
            return generator
        seeds = torch.randint(2**62, (self.size,), generator=generator)
        return Generator(generator.device).manual_seed(int(seeds[self.rank]))

    def mean(self, rows: int, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return means over all rows of a minibatch, given means over those of this rank.

        Args:
            rows: of the whole minibatch.
            parts: float32 tensors; what a rank without a row hands in counts for nothing.
        """
        if self.size == 1:
            return parts
        mine = len(range(self.rank, rows, self.size))
        flat = torch.cat([part.reshape(-1) for part in parts]).mul_(mine / rows)
        dist.all_reduce(flat)
        cuts = torch.split(flat, [part.numel() for part in parts])
        return [cut.view_as(part) for cut, part in zip(cuts, parts, strict=True)]

    def check_same(self, *vectors: Tensor) -> None:
        """Make sure that vectors are the same on every rank.

        Raises:
            RanksFailed: they are not.
        """
        if self.size == 1:
            return
        mine = torch.cat([vector.detach().reshape(-1) for vector in vectors])
        first = mine.clone()
        dist.broadcast(first, src=0)
        # Bits, since a number that is none does not equal itself.
        apart = (first.view(torch.int32) != mine.view(torch.int32)).any().float()
        dist.all_reduce(apart, op=dist.ReduceOp.MAX)
        if bool(apart):
            raise RanksFailed(
                f"The {self.size} processes of a training have come apart",
                found=f"rank {self.rank} differs from rank 0, or another rank does",
                expected="the same weights on all of them, bit for bit",
                remedy="Use devices of one kind; the batch stays pending.",
            )


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for a `with` block: NCCL on CUDA, else gloo."""
    device = None
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device else "gloo", device_id=device)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()

"""A rank that meets another one, and has too little memory unless it is on the round's machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from bhpeft.learning.rank import _telling, _telling_the_first
from bhpeft.learning.ranks import joined


def main(folder: Path) -> None:
    with _telling(folder), joined(), _telling_the_first(folder):
        if os.environ["GROUP_RANK"] != "0":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

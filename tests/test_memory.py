"""A process does not grow with the shapes it has seen, nor with the threads it had."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Six hundred shapes of a bfloat16 product, as texts of any length make them.
PROGRAM = """
import bhpeft, torch
from benchmarks.memory import resident
torch.set_num_threads(1)
weight = torch.randn(1536, 384).bfloat16()
rows = torch.randn(616, 384).bfloat16()
torch.nn.functional.linear(rows[:8], weight)
before = resident()
for count in range(16, 616):
    torch.nn.functional.linear(rows[:count], weight)
print((resident() - before) / 2**20)
"""


def test_kernels_of_shapes_long_gone_are_not_kept() -> None:
    """120 MB where oneDNN multiplies; with its own thousand kept it was 400."""
    limits = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    around = {name: value for name, value in os.environ.items() if name not in limits}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=around, check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 250


# Eight threads that allocate at once, then what glibc says of its arenas.
THREADS = """
import bhpeft, ctypes, threading
together = threading.Barrier(8)
def allocate():
    together.wait()
    ctypes.CDLL(None).malloc(100_000)
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""

# 200 MB in pieces that the allocator keeps, since each has a neighbour that stays.
PIECES = """
from benchmarks.memory import resident
from bhpeft.allocator import give_back
pieces = [bytearray(100_000) for _ in range(2_000)]
stays = pieces[::20]
full = resident()
del pieces
freed = resident()
give_back()
print((full - freed) / 2**20, (full - resident()) / 2**20)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")


def printed(program: str, **variables: str) -> str:
    around = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=around | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


@glibc
def test_all_threads_allocate_from_one_arena_unless_somebody_says_otherwise() -> None:
    assert printed(THREADS).count("<heap nr=") == 1
    assert printed(THREADS, MALLOC_ARENA_MAX="4").count("<heap nr=") > 1


@glibc
def test_what_is_free_is_given_back() -> None:
    kept, given = map(float, printed(PIECES).split())
    assert kept < 100 < 150 < given

"""Have a process give back what a round needed and the next one will ask for anew.

glibc gives every thread that allocates an arena of its own, up to eight for each core, and what is
freed in one is of no use to the others: a process held a hundred megabytes more after twenty rounds
although it had not one object more, and two hundred that were free all along. With one arena, and
what is free given back after each round, it holds the same after every round.

Source: mallopt(3), M_ARENA_MAX; malloc_trim(3). Other allocators are left as they are.
"""

from __future__ import annotations

import ctypes
import os

# glibc's number of the parameter, malloc.h.
M_ARENA_MAX = -8


def one_arena() -> None:
    """Have all threads allocate from one arena; before the first of them, or it comes too late.

    Unless MALLOC_ARENA_MAX says how many there should be.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _call("mallopt", M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the system back whatever memory is free."""
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    """Call a function of the C library, where there is one of that name."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    function = getattr(libc, name, None)
    if function is not None:
        function(*values)

"""Name a shortage of memory as what it is, whichever library ran into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bhpeft.errors import BhpeftError, OutOfMemory
from bhpeft.learning.plan import ROWS

# torch says so in a RuntimeError: of its own class on a GPU, of none on a CPU.
_SAID = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def named() -> Iterator[None]:
    """Turn a shortage of memory inside the scope into `OutOfMemory`.

    Raises:
        OutOfMemory: the round needs more than the machine or the GPU has.
    """
    try:
        yield
    except BhpeftError:
        raise
    except (MemoryError, RuntimeError, OSError) as problem:
        text = " ".join(str(problem).split())
        if not isinstance(problem, MemoryError) and not any(s in text.lower() for s in _SAID):
            raise
        raise OutOfMemory(
            "The round ran out of memory",
            found=(text or type(problem).__name__)[:300],
            expected="room for the model, its gradients and a minibatch",
            remedy=f"Lower learning.plan.batch_size ({ROWS} where the stream file names none) or "
            "model.max_length, or set learning.plan.checkpointing; the batch stays pending.",
        ) from problem

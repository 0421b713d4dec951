"""Let a group's population follow when a champion of one of its streams has moved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from bhpeft.errors import RegistryError, StateError
from bhpeft.registry import Registry
from bhpeft.registry.promotion import Lock
from bhpeft.stream import Stream

logger = logging.getLogger(__name__)


def tell_group(
    stream: Stream,
    registry: Registry,
    *,
    run: Callable[..., Any],
    by: str,
    lock: Lock = nullcontext,
) -> str:
    """Let the population of a stream's group follow its champions; say what kept it, if anything.

    The move of the champion stands whatever happens here: the next round of any stream of the group
    begins by making the population agree with the champions.

    Args:
        stream: whose champion has moved.
        registry: where.
        run: calls the step, as a round's are called.
        by: who moved it.
        lock: makes the context under which the population may be moved.
    """
    group = stream.learning.group
    if not group:
        return ""
    from bhpeft.rounds.population import follow_champions

    try:
        run(follow_champions, stream, registry, by=by, lock=lock)
    except (RegistryError, StateError, TimeoutError) as problem:
        logger.warning("the population %s is behind: %s", group, problem)
        return f"; the population {group} follows with the next round: {problem}"
    return ""

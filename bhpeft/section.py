"""What every table of a stream file is: frozen, closed to unknown keys, with durations in words."""

from __future__ import annotations

import re
from datetime import timedelta

from pydantic import BaseModel, ConfigDict

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Section(BaseModel):
    """A table of the stream file: frozen, and without room for unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def duration(text: str) -> timedelta:
    """Return how long "30s", "5m", "2h" or "1d" is.

    Raises:
        ValueError: it is none of these, or nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd])", text)
    if not match or float(match[1]) <= 0:
        raise ValueError(f'{text!r} is not an interval like "30s", "5m", "2h" or "1d"')
    return timedelta(**{UNITS[match[2]]: float(match[1])})

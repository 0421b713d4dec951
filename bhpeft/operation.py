"""How a stream is run while nobody looks: when, who must agree, what a failure leads to.

These are tables of the stream file (`bhpeft.stream`), each a frozen value.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bhpeft.section import Section, duration


class Schedule(Section):
    """When the stream looks for new batches."""

    cron: str | None = None
    interval: str | None = Field(None, description='like "30s", "5m", "2h", "1d"')
    timezone: str = "UTC"

    @model_validator(mode="after")
    def _one_of_both(self) -> Schedule:
        if self.cron and self.interval:
            raise ValueError("give either cron or interval, not both")
        if self.interval:
            duration(self.interval)
        return self

    @property
    def seconds(self) -> float | None:
        """Return the interval in seconds, if there is one."""
        return duration(self.interval).total_seconds() if self.interval else None


class Approval(Section):
    """When a person must agree, and what happens while nobody does."""

    required: bool = Field(False, description="every promotion needs a person")
    second_person: bool = Field(False, description="not the one who ran the round")
    new_batch: Literal["wait", "supersede"] = Field(
        "wait", description="what a new batch does to a candidate that waits for a person"
    )
    expires: str = Field("7d", description='a decision not made by then is a refusal; "" is never')

    @field_validator("expires")
    @classmethod
    def _in_words(cls, text: str) -> str:
        if text:
            duration(text)
        return text

    @property
    def patience(self) -> timedelta | None:
        """Return how long a candidate waits; None is for ever."""
        return duration(self.expires) if self.expires else None

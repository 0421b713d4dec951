"""How a stream is run while nobody looks: when, on what, who must agree, what a failure leads to.

These are tables of the stream file (`bhpeft.stream`), each a frozen value.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bhpeft.section import Section, duration


class Schedule(Section):
    """When the stream looks for new batches."""

    cron: str | None = None
    interval: str | None = Field(None, description='like "30s", "5m", "2h", "1d"')
    rrule: str | None = Field(None, description='iCalendar: "FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=2"')
    timezone: str = "UTC"
    rounds_per_watch: int = Field(
        3, ge=0, description="then it is others' turn; 0 is all there are"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Schedule:
        if sum(map(bool, (self.cron, self.interval, self.rrule))) > 1:
            raise ValueError("give one of cron, interval and rrule, not several")
        if self.rrule:
            _check_rrule(self.rrule)
        if self.interval:
            duration(self.interval)
        return self

    @property
    def in_words(self) -> str:
        """Return the schedule as the file says it."""
        return self.cron or self.interval or self.rrule or "no schedule"

    @property
    def seconds(self) -> float | None:
        """Return the interval in seconds, if there is one."""
        return duration(self.interval).total_seconds() if self.interval else None


def _check_rrule(text: str) -> None:
    from dateutil.rrule import rrulestr

    try:
        rrulestr(text)
    except (ValueError, KeyError) as problem:
        raise ValueError(f"{text!r} is no recurrence rule (RFC 5545): {problem}") from problem


class Compute(Section):
    """What a round's training runs on."""

    processes: int = Field(1, ge=1, le=1024, description="that share it, one a GPU, on a machine")
    machines: int = Field(1, ge=1, le=256, description="that share it; all but one `bhpeft join`")
    shard: bool = Field(False, description="they share the frozen base's weights too (FSDP)")
    queue: str = Field(
        "default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$", description="whose workers have it"
    )

    @model_validator(mode="after")
    def _shared_by_several(self) -> Compute:
        if self.shard and self.alone:
            raise ValueError("shard = true needs processes = 2 or more to share the base among")
        return self

    @property
    def alone(self) -> bool:
        """Return whether the round's own process trains."""
        return self.processes == self.machines == 1


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


class Retry(Section):
    """What follows a round that failed by itself: diverged, too slow, out of memory."""

    back_off: str = Field("10m", description="wait after a first failure; doubles, a day at most")
    attempts: int = Field(3, ge=1, description="failures in a row after which a person must look")

    @field_validator("back_off")
    @classmethod
    def _in_words(cls, text: str) -> str:
        duration(text)
        return text

    @property
    def first_wait(self) -> timedelta:
        """Return the wait after a first failure."""
        return duration(self.back_off)


class Retention(Section):
    """What is kept of a stream's past."""

    keep: int | None = Field(
        None, ge=0, description="versions beside those in use; others go each night; None is all"
    )


Told = Literal["promoted", "refused", "held", "quarantined", "failed", "parked", "stale"]


class Notify(Section):
    """Whom a stream calls, and about what."""

    block: str = Field(
        "", description='a notification block of Prefect\'s: "slack-webhook/on-call"'
    )
    on: tuple[Told, ...] = ("refused", "held", "quarantined", "failed", "parked", "stale")

    @field_validator("block")
    @classmethod
    def _with_its_type(cls, block: str) -> str:
        if block and not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", block):
            raise ValueError('name a block as "TYPE/NAME", such as "slack-webhook/on-call"')
        return block

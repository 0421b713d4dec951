"""How a stream's batches arrive: where they land, what they must look like, which rows are kept.

These are the keys of the stream file's `[data]` (`bhpeft.stream`), a frozen value.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from bhpeft.section import Section, duration

REMOTE = "s3://"


class Data(Section):
    """Where batches land, what they must look like, and how rows are kept apart."""

    contract: Path
    landing: str = Field("landing", description="a folder or s3://bucket/prefix")
    delta: str = Field("", description="a Delta table instead, whose new rows are the batches")
    delta_rows: int = Field(50_000, ge=1, description="most rows of a batch cut from the table")
    delta_from: int = Field(0, ge=0, description="the table's first version that is learned")
    backlog: Literal["each", "merge"] = Field("each", description="what a round takes of several")
    merge_rows: int = Field(20_000, ge=1, description="most rows of merged batches")
    expect_every: str = Field("", description='an alarm when no batch came in, say, "1d"')
    quarantine: Path = Field(Path("quarantine"), description="refused ones are explained here")
    holdout: float = Field(0.2, gt=0, lt=0.9, description="share of rows no training ever sees")
    selection: float = Field(0.1, ge=0, lt=0.9, description="share for choices no gate looks at")
    memory_rows: int = Field(500, ge=0, description="hold-out rows kept of each batch")
    replay_rows: int | Literal["all"] = Field(
        0, description="training rows of each batch to rehearse"
    )
    memory_batches: int = Field(5, ge=1, description="batches whose hold-out rows are kept")

    @field_validator("landing", "delta")
    @classmethod
    def _without_secrets(cls, address: str) -> str:
        """Refuse what an address must not hold; the error must not repeat it."""
        if "://" in address and ("@" in address or "?" in address):
            raise ValueError(
                "an address without user, password or query; endpoint, region and credentials "
                "come from the environment or from files"
            )
        return address

    @field_validator("replay_rows", mode="before")
    @classmethod
    def _some_or_all(cls, rows: Any) -> Any:
        number = isinstance(rows, int) and not isinstance(rows, bool) and rows >= 0
        if rows != "all" and not number:
            raise ValueError('a number of rows, 0 or more, or "all"')
        return rows

    @field_validator("expect_every")
    @classmethod
    def _in_words(cls, text: str) -> str:
        if text:
            duration(text)
        return text

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> Data:
        if self.holdout + self.selection >= 1:
            raise ValueError("holdout and selection must add up to less than 1")
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if self.delta and "landing" in self.model_fields_set:
            raise ValueError("give either landing or delta, not both")
        return self

    @property
    def rehearsed(self) -> tuple[int, int]:
        """Return how many training rows are kept of a batch, and of how many batches."""
        if self.replay_rows == "all":
            return sys.maxsize, sys.maxsize
        return self.replay_rows, self.memory_batches

    @property
    def rhythm(self) -> timedelta | None:
        """Return how often a batch is expected; None where nobody said."""
        return duration(self.expect_every) if self.expect_every else None

    def location(self, home: Path) -> str:
        """Return where batches land: a folder, `s3://…`, or `delta:` and a table's address."""
        address = self.delta or self.landing
        if "://" not in address:
            address = str(home / address)
        return f"delta:{address}" if self.delta else address

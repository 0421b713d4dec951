"""The stream file's [model]: which frozen base it is, and where and in what it computes."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from bhpeft.section import Section

GPU, ONE_DEVICE = re.compile(r"cuda:\d{1,3}"), re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class Model(Section):
    """The frozen base model."""

    base: str
    revision: str = ""
    layers: int | None = Field(None, ge=1, description="keep only the base's first n layers")
    pooling: Literal["", "mean", "first", "last"] = ""
    max_length: int = Field(128, ge=8, le=8192)
    device: str | tuple[str, ...] = Field(
        "auto", description='"cpu", "cuda:1", or several GPUs, over which the layers are spread'
    )
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: Literal["auto", "sdpa", "explicit"] = "auto"
    threads: int | None = Field(None, ge=1, description="of the CPU; measured by default")
    folded_rows: int | None = Field(None, ge=1, description="rows × draws a pass; measured")
    explicit_tokens: int | None = Field(None, ge=1, description="longest such rows; measured")
    laid_out: bool | None = Field(None, description="a copy of the weights for speed; measured")
    feature_cache_mb: int = Field(2048, ge=0, description="for what frozen layers make of rows")
    trust_remote_code: bool = Field(False, description="only false: see _never_run_code")

    @field_validator("device")
    @classmethod
    def _devices(cls, said: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(said, str):
            if not ONE_DEVICE.fullmatch(said):
                raise ValueError('"auto", "cpu", "cuda" or one GPU, like "cuda:1"')
        elif len(set(said)) < 2 or not all(map(GPU.fullmatch, said)):
            raise ValueError('at least two different GPUs, like ["cuda:0", "cuda:1"]')
        return said

    @field_validator("trust_remote_code")
    @classmethod
    def _never_run_code(cls, trusted: bool) -> bool:
        if trusted:
            raise ValueError(
                "false: code that comes with a model never runs here, neither in a round nor where "
                "a version is served; use an architecture that transformers has itself"
            )
        return trusted

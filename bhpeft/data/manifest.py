"""What a producer writes last: the files of a batch, with their sizes, checksums and rows."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from bhpeft.errors import BatchCorrupt, did_you_mean

MANIFEST = "_manifest.json"

# One path component, never hidden, never `..`: an id or a file name cannot leave its folder.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def safe_name(name: str) -> str:
    """Return `name` if it is safe as a folder's or file's name.

    Raises:
        ValueError: it is not 1 to 100 letters, digits, dots, dashes and underscores, or does not
            begin with a letter or a digit.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(
            f"{name[:120]!r} is not 1 to 100 of A-Z a-z 0-9 . _ - beginning with a letter "
            "or a digit"
        )
    return name


class Part(BaseModel):
    """Describe one Parquet file of a batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(safe_name)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rows: Annotated[int, Field(ge=0)]


class Manifest(BaseModel):
    """Describe a batch; its stream and id are the names of its folders."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: Annotated[tuple[Part, ...], Field(min_length=1)]
    rows: Annotated[int, Field(ge=0)]
    contract: str | None = None
    contract_version: str
    event_time: AwareDatetime
    landed_at: AwareDatetime | None = None


def parse_manifest(content: bytes, address: str, name: str | None = None) -> Manifest:
    """Return the manifest that bytes hold.

    Args:
        content: the file's bytes.
        address: where they were read, for people.
        name: the batch's folder's name, judged too if given.

    Raises:
        BatchCorrupt: they are no manifest, or the name is no batch's.
    """
    try:
        if name is not None:
            safe_name(name)
        return Manifest.model_validate_json(content)
    except ValueError as problem:
        raise BatchCorrupt(
            f"The manifest of {address} cannot be read",
            found=_problem(problem),
            expected="files (name, size, sha256, rows), rows, contract_version, event_time",
            remedy="Land the data again, for example with `bhpeft land`.",
        ) from problem


def _problem(problem: ValueError) -> str:
    if not isinstance(problem, ValidationError):
        return str(problem)
    return "; ".join(_one(error) for error in problem.errors()[:3])


def _one(error: Any) -> str:
    place = ".".join(str(step) for step in error["loc"])
    hint = ""
    if error["type"] == "extra_forbidden":
        known = Part.model_fields if place.startswith("files.") else Manifest.model_fields
        hint = f" {did_you_mean(str(error['loc'][-1]), known)}"
    return f"{place or 'document'}: {error['msg']}{hint}"

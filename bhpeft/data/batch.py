"""Open a landed batch: a folder of Parquet parts that exists once its `_manifest.json` does.

    landing/<stream>/<batch_id>/part-00000.parquet
                                part-00001.parquet
                                _manifest.json          written last

A producer that dies half-way leaves a folder without a manifest, which is not a batch. The digest
is the identity of the content: it comes from the parts' SHA-256 alone, so a re-delivery under
another name is recognised as the batch it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from bhpeft.errors import BatchCorrupt, BatchError, BatchIncomplete, did_you_mean

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


@dataclass(frozen=True)
class Batch:
    """Name a landed batch and where it lies."""

    stream: str
    batch_id: str
    folder: Path
    manifest: Manifest
    digest: str

    @property
    def rows(self) -> int:
        """Return the number of rows the manifest promises."""
        return self.manifest.rows

    @property
    def event_time(self) -> datetime:
        """Return when the batch's data happened, as the manifest says."""
        return self.manifest.event_time

    @property
    def contract_version(self) -> str:
        """Return the version of the contract under which the batch was landed."""
        return self.manifest.contract_version

    @property
    def paths(self) -> tuple[Path, ...]:
        """Return the parts' files in the order of the manifest, which is the order of the rows."""
        return tuple(self.folder / part.name for part in self.manifest.files)


def open_batch(folder: Path | str, verify: bool = True) -> Batch:
    """Read a batch's manifest and, unless told otherwise, hash its files against it.

    Raises:
        BatchIncomplete: there is no manifest (yet).
        BatchCorrupt: the manifest cannot be read, or the files are not what it says.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    digest = digest_of([part.sha256 for part in manifest.files])
    batch = Batch(folder.resolve().parent.name, folder.resolve().name, folder, manifest, digest)
    if verify:
        verify_files(batch)
    return batch


def landed(landing: Path | str, stream: str | None = None) -> list[Batch]:
    """List the stream's batches, oldest first by event time, then by id.

    Only manifests are read. Folders without one are `incomplete`, folders with one that cannot be
    read are `unreadable`; neither hides the others.

    Args:
        landing: the landing folder, or the stream's own folder in it when `stream` is not given.
        stream: the stream's name.
    """
    batches = []
    for folder in _candidates(landing, stream):
        try:
            batches.append(open_batch(folder, verify=False))
        except (BatchIncomplete, BatchCorrupt):
            continue
    return sorted(batches, key=lambda b: (b.event_time, b.batch_id))


def incomplete(landing: Path | str, stream: str | None = None) -> list[Path]:
    """List folders without a manifest: still being written, or left by a producer that died."""
    folders = _candidates(landing, stream, hidden=True)
    return [folder for folder in folders if not (folder / MANIFEST).exists()]


def unreadable(landing: Path | str, stream: str | None = None) -> list[tuple[Path, BatchError]]:
    """List folders whose manifest or name is wrong, each with the error, for the quarantine."""
    broken: list[tuple[Path, BatchError]] = []
    for folder in _candidates(landing, stream):
        try:
            open_batch(folder, verify=False)
        except BatchIncomplete:
            continue
        except BatchCorrupt as error:
            broken.append((folder, error))
    return broken


def digest_of(sha256s: list[str]) -> str:
    """Return a batch's identity: SHA-256 of its parts' sorted SHA-256, whatever their names."""
    return hashlib.sha256("\n".join(sorted(sha256s)).encode()).hexdigest()


def folder_digest(folder: Path | str) -> str:
    """Return the digest of whatever a folder holds: the batch's, else its files' own."""
    folder = Path(folder)
    try:
        return open_batch(folder, verify=False).digest
    except BatchError:
        manifest = folder / MANIFEST
        if manifest.exists():
            return digest_of([file_sha256(manifest)])
        # Not the digest of the batch it becomes once its manifest is written.
        files = sorted(path for path in folder.iterdir() if path.is_file())
        return digest_of(["no manifest", *(file_sha256(path) for path in files)])


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(batch: Batch) -> None:
    """Compare a batch's files with its manifest: which there are, their sizes and checksums.

    Raises:
        BatchCorrupt: names the first file that differs.
    """
    named = {part.name for part in batch.manifest.files}
    present = {p.name for p in batch.folder.iterdir() if not p.name.startswith(("_", "."))}
    if named != present:
        missing, extra = sorted(named - present), sorted(present - named)
        raise _corrupt(
            batch.folder,
            " and ".join(
                ([f"no {', '.join(missing)}"] if missing else [])
                + ([f"{', '.join(extra)}, which the manifest does not name"] if extra else [])
            ),
            f"exactly {', '.join(sorted(named))}",
        )
    for part, path in zip(batch.manifest.files, batch.paths, strict=True):
        size = path.stat().st_size
        if size != part.size:
            raise _corrupt(batch.folder, f"{part.name} of {size} bytes", f"{part.size} bytes")
        if (sha256 := file_sha256(path)) != part.sha256:
            raise _corrupt(
                batch.folder, f"{part.name} with SHA-256 {sha256}", f"SHA-256 {part.sha256}"
            )


def _corrupt(folder: Path, found: str, expected: str) -> BatchCorrupt:
    return BatchCorrupt(
        f"The batch {folder.parent.name}/{folder.name} is not what its manifest says",
        found=found,
        expected=expected,
        remedy="Deliver it again under a new batch id; a landed batch is never changed in place.",
    )


def _candidates(landing: Path | str, stream: str | None, hidden: bool = False) -> Iterator[Path]:
    root = Path(landing) if stream is None else Path(landing) / stream
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and (hidden or not folder.name.startswith(("_", "."))):
            yield folder


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BatchIncomplete(
            f"{folder} is not a batch yet",
            found=f"no {MANIFEST}",
            expected="a manifest, which its producer writes last",
            remedy="Wait for the producer, or land the data with `bhpeft land`.",
        )
    try:
        safe_name(folder.resolve().name)
        return Manifest.model_validate_json(path.read_bytes())
    except (ValueError, OSError) as problem:
        raise BatchCorrupt(
            f"The manifest {path} cannot be read",
            found=_problem(problem),
            expected="files (name, size, sha256, rows), rows, contract_version, event_time",
            remedy="Land the data again, for example with `bhpeft land`.",
        ) from problem


def _problem(problem: ValueError | OSError) -> str:
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

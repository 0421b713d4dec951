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
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from bhpeft.data.manifest import MANIFEST, Manifest, Part, parse_manifest, safe_name
from bhpeft.errors import BatchCorrupt, BatchError, BatchIncomplete

__all__ = [
    "MANIFEST",
    "Manifest",
    "Part",
    "parse_manifest",
    "safe_name",
    "Batch",
    "Unreadable",
    "merged",
    "open_batch",
    "landed",
    "incomplete",
    "unreadable",
    "digest_of",
    "folder_digest",
    "file_sha256",
    "verify_files",
]


@dataclass(frozen=True)
class Batch:
    """Name a landed batch and where it lies.

    Attributes:
        stream, batch_id: the names of its folders.
        folder: its files on this machine; those of a store are there once they are staged.
        manifest: what its files hold.
        digest: the identity of its content.
        origin: its address in a store or table; empty where it landed in `folder` itself.
        members: the batches it was merged from, oldest first; it goes by the name of the first.
    """

    stream: str
    batch_id: str
    folder: Path
    manifest: Manifest
    digest: str
    origin: str = ""
    members: tuple[Batch, ...] = ()

    @property
    def each(self) -> tuple[Batch, ...]:
        """Return the landed batches it is: its members, or itself."""
        return self.members or (self,)

    @property
    def address(self) -> str:
        """Return where the batch landed, for people."""
        return self.origin or str(self.folder)

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
        return tuple(one.folder / part.name for one in self.each for part in one.manifest.files)


def merged(batches: Sequence[Batch]) -> Batch:
    """Return batches as one whose rows are all of theirs, in order; a single one as it is."""
    first = batches[0]
    if len(batches) == 1:
        return first
    manifest = first.manifest.model_copy(
        update={
            "files": tuple(part for one in batches for part in one.manifest.files),
            "rows": sum(one.rows for one in batches),
            "event_time": max(one.event_time for one in batches),
        }
    )
    digest = digest_of([one.digest for one in batches])
    origin = f"{first.address} and {len(batches) - 1} more"
    return replace(first, manifest=manifest, digest=digest, origin=origin, members=tuple(batches))


@dataclass(frozen=True)
class Unreadable:
    """Name something that landed and is no batch: its manifest or its name is wrong.

    Attributes:
        stream, batch_id: the names of its folders.
        address: where it lies.
        digest: of whatever it holds.
        error: what is wrong with it.
    """

    stream: str
    batch_id: str
    address: str
    digest: str
    error: BatchError


def open_batch(folder: Path | str, verify: bool = True) -> Batch:
    """Read a batch's manifest and, unless told otherwise, hash its files against it.

    Raises:
        BatchIncomplete: there is no manifest (yet).
        BatchCorrupt: the manifest cannot be read, or the files are not what it says.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    digest = digest_of([part.sha256 for part in manifest.files])
    here = folder.resolve()
    batch = Batch(here.parent.name, here.name, folder, manifest, digest)
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
        if manifest.is_file() and not manifest.is_symlink():
            return digest_of([file_sha256(manifest)])
        # Not the digest of the batch it becomes once its manifest is written.
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.is_symlink())
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
        # A link could lead anywhere, and a pipe would make us wait for ever.
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _no_file(batch.folder, path)
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


def _no_file(folder: Path, path: Path) -> BatchCorrupt:
    return _corrupt(folder, f"{path.name}, which is a link or a device", "a plain file")


def _candidates(landing: Path | str, stream: str | None, hidden: bool = False) -> Iterator[Path]:
    root = Path(landing) if stream is None else Path(landing) / stream
    if not root.is_dir():
        return
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and (hidden or not folder.name.startswith(("_", "."))):
            yield folder


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise _no_file(folder, path)
    if not path.is_file():
        raise BatchIncomplete(
            f"{folder} is not a batch yet",
            found=f"no {MANIFEST}",
            expected="a manifest, which its producer writes last",
            remedy="Wait for the producer, or land the data with `bhpeft land`.",
        )
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise BatchCorrupt(
            f"The manifest {path} cannot be read",
            found=str(problem),
            expected="a file this user may read",
            remedy="Mend its permissions, or land the data again.",
        ) from problem
    return parse_manifest(content, str(folder), folder.resolve().name)

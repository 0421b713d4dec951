"""Batches in an S3-compatible bucket: `s3://bucket/prefix/<stream>/<batch_id>/`, manifest last.

Parts are named after their content and the manifest is written on condition that there is none, so
two writers of one id cannot mix: the second finds the id taken, and the first batch untouched.
Objects that no manifest names are left by writers that died or lost; they are never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bhpeft.data import object_store, staging
from bhpeft.data.arrival import has_arrived, landed_at
from bhpeft.data.batch import MANIFEST, Batch, Manifest, Unreadable, digest_of, parse_manifest
from bhpeft.data.contract import Contract
from bhpeft.data.landing_folder import taken
from bhpeft.data.spans import NO_PAST, Past
from bhpeft.errors import BatchCorrupt

BLOCK_BYTES = 8 * 2**20
# A manifest of ten thousand files is two megabytes.
MANIFEST_BYTES = 16 * 2**20
# Enough of a part's SHA-256 that two contents never share a name.
_NAME_DIGITS = 16


@dataclass(frozen=True)
class _Listed:
    """What a listing says of one folder: its manifest and the sizes of everything beside it."""

    batch_id: str
    manifest: Any
    sizes: dict[str, int]

    @property
    def written(self) -> datetime:
        """Return when the manifest was written, by the store's clock."""
        found: datetime = self.manifest.mtime
        return found if found.tzinfo else found.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Bucket:
    """A `Landing` in a bucket.

    Attributes:
        location: `s3://bucket/prefix`.
        stream: the stream's name.
        cache: a local folder for manifests and staged batches.
    """

    location: str
    stream: str
    cache: Path

    @property
    def path(self) -> str:
        """Return `bucket/prefix/<stream>`."""
        return f"{object_store.path_of(self.location)}/{self.stream}"

    @property
    def desk(self) -> Path:
        """Return a local folder: objects cannot be renamed."""
        return self.cache / "desk"

    def landed(self, settled: Mapping[str, str], past: Past = NO_PAST) -> list[Batch]:
        """Return what waits, oldest first by event time, then by id."""
        waiting = []
        for listed in self._list():
            batch = self._opened(listed)
            if not isinstance(batch, Batch) or batch.digest in settled:
                continue
            if has_arrived(batch.manifest, listed.sizes, listed.written):
                waiting.append(batch)
        return sorted(waiting, key=lambda b: (b.event_time, b.batch_id))

    def unreadable(self) -> list[Unreadable]:
        """Return folders whose manifest or name is wrong."""
        opened = (self._opened(listed) for listed in self._list())
        return [found for found in opened if isinstance(found, Unreadable)]

    def newest(self) -> datetime | None:
        """Return when the last batch landed."""
        opened = ((self._opened(listed), listed.written) for listed in self._list())
        times = [landed_at(b.manifest, written) for b, written in opened if isinstance(b, Batch)]
        return max(times, default=None)

    def holding(self, digest: str, batch_id: str | None = None) -> Batch | None:
        """Return the batch of this content, whatever its id."""
        opened = (self._opened(listed) for listed in self._list())
        return next((b for b in opened if isinstance(b, Batch) and b.digest == digest), None)

    def staged(self, batch: Batch, contract: Contract) -> Batch:
        """Return the batch with its files on this machine.

        Raises:
            BatchCorrupt: an object is missing, or is not what the manifest says.
        """
        return staging.staged(batch, partial(self._fetch, batch))

    def publish(self, folder: Path, batch_id: str, manifest: Manifest) -> Batch:
        """Upload a prepared folder's parts, then its manifest if the id is still free.

        Raises:
            BatchError: the id is taken.
        """
        named = {part.name: f"part-{part.sha256[:_NAME_DIGITS]}.parquet" for part in manifest.files}
        parts = [part.model_copy(update={"name": named[part.name]}) for part in manifest.files]
        manifest = manifest.model_copy(update={"files": tuple(parts)})
        where = f"{self.path}/{batch_id}"
        with object_store.translated(self._address(batch_id)):
            for local, name in named.items():
                _upload(folder / local, f"{where}/{name}")
        content = manifest.model_dump_json(indent=2).encode()
        if not object_store.put_if_absent(f"{where}/{MANIFEST}", content):
            return self._after_losing(batch_id, manifest)
        return self._batch(batch_id, manifest)

    def _after_losing(self, batch_id: str, manifest: Manifest) -> Batch:
        """Return the batch that has the id if it is ours after all; else take our parts away."""
        winner = parse_manifest(self._read_manifest(batch_id), self._address(batch_id))
        ours = self._batch(batch_id, manifest)
        # The answer to our own first attempt may have been lost.
        if self._batch(batch_id, winner).digest == ours.digest:
            return self._batch(batch_id, winner)
        theirs = {part.name for part in winner.files}
        for part in manifest.files:
            if part.name not in theirs:
                object_store.remove(f"{self.path}/{batch_id}/{part.name}")
        raise taken(batch_id, self._address(batch_id))

    def _address(self, batch_id: str) -> str:
        return f"{object_store.SCHEME}{self.path}/{batch_id}"

    def _list(self) -> Iterator[_Listed]:
        """Yield every folder that has a manifest, by one recursive listing."""
        from pyarrow.fs import FileSelector, FileType

        asked = FileSelector(self.path, recursive=True, allow_not_found=True)
        with object_store.translated(f"{object_store.SCHEME}{self.path}"):
            found = object_store.filesystem().get_file_info(asked)
            if not found:
                object_store.require_bucket(self.path)
        folders: dict[str, dict[str, Any]] = {}
        for info in found:
            batch_id, _, name = info.path[len(self.path) + 1 :].partition("/")
            if info.type == FileType.File and name and not batch_id.startswith(("_", ".")):
                folders.setdefault(batch_id, {})[name] = info
        for batch_id, objects in sorted(folders.items()):
            if MANIFEST in objects:
                sizes = {name: info.size for name, info in objects.items()}
                yield _Listed(batch_id, objects[MANIFEST], sizes)

    def _opened(self, listed: _Listed) -> Batch | Unreadable:
        content = self._cached_manifest(listed)
        address = self._address(listed.batch_id)
        try:
            manifest = parse_manifest(content, address, listed.batch_id)
        except BatchCorrupt as error:
            digest = digest_of([hashlib.sha256(content).hexdigest()])
            return Unreadable(self.stream, listed.batch_id, address, digest, error)
        return self._batch(listed.batch_id, manifest)

    def _batch(self, batch_id: str, manifest: Manifest) -> Batch:
        digest = digest_of([part.sha256 for part in manifest.files])
        folder = staging.staging_folder(self.cache, digest, self.stream, batch_id)
        return Batch(self.stream, batch_id, folder, manifest, digest, self._address(batch_id))

    def _cached_manifest(self, listed: _Listed) -> bytes:
        """Return a manifest's bytes; a manifest never changes, so it is fetched once."""
        stamp = f"{listed.manifest.path} {listed.manifest.size} {listed.written.isoformat()}"
        kept = self.cache / "manifests" / hashlib.sha256(stamp.encode()).hexdigest()
        if kept.exists():
            return kept.read_bytes()
        content = self._read_manifest(listed.batch_id)
        kept.parent.mkdir(parents=True, exist_ok=True)
        staging.write_whole(kept, content)
        return content

    def _read_manifest(self, batch_id: str) -> bytes:
        path = f"{self.path}/{batch_id}/{MANIFEST}"
        with (
            object_store.translated(self._address(batch_id)),
            object_store.filesystem().open_input_stream(path) as stream,
        ):
            content: bytes = stream.read(MANIFEST_BYTES)
        return content

    def _fetch(self, batch: Batch, folder: Path) -> Manifest:
        with object_store.translated(batch.origin):
            for part in batch.manifest.files:
                # One byte more than promised is enough to see that there is more.
                _download(
                    f"{self.path}/{batch.batch_id}/{part.name}", folder / part.name, part.size
                )
        return batch.manifest


def _upload(source: Path, path: str) -> None:
    with source.open("rb") as file, object_store.filesystem().open_output_stream(path) as stream:
        while block := file.read(BLOCK_BYTES):
            stream.write(block)


def _download(path: str, target: Path, size: int) -> None:
    """Fetch an object, or nothing where there is none: the verification says which is missing."""
    left = size + 1  # enough to see that there is more than was promised
    try:
        stream = object_store.filesystem().open_input_stream(path)
    except FileNotFoundError:
        return
    with stream, target.open("wb") as file:
        while left > 0 and (block := stream.read(min(left, BLOCK_BYTES))):
            file.write(block)
            left -= len(block)

"""What a stream has still to learn, read from where its batches land and from the registry."""

from __future__ import annotations

from bhpeft.data.batch import Batch
from bhpeft.data.landings import Landing, Place, landing_at
from bhpeft.data.quarantine import quarantined
from bhpeft.registry import Registry
from bhpeft.stream import Stream


def landing_of(stream: Stream) -> Landing:
    """Return where the stream's batches land."""
    data = stream.data
    return landing_at(
        Place(stream.location, stream.name, stream.cache, data.delta_rows, data.delta_from)
    )


def pending(stream: Stream, registry: Registry) -> list[Batch]:
    """Return the batches still to be learned, oldest first.

    pending = landed − learned by the champion's chain − refused − held − quarantined. A batch
    delivered twice under two names is one batch.
    """
    waiting: dict[str, Batch] = {}
    for batch in landing_of(stream).landed(settled(stream, registry)):
        waiting.setdefault(batch.digest, batch)
    return list(waiting.values())


def settled(stream: Stream, registry: Registry) -> dict[str, str]:
    """Return digest → batch id of all that is learned, refused, held or quarantined."""
    champion = registry.champion(stream.name)
    digests = set(registry.learned(stream.name, champion.number if champion else None))
    digests |= registry.refused(stream.name)
    digests |= {digest for version in registry.held(stream.name) for digest in version.batches}
    names = {
        digest: batch_id
        for version in registry.versions(stream.name)
        for digest, batch_id in zip(version.batches, version.batch_ids, strict=True)
    }
    aside = {digest: r["batch_id"] for digest, r in quarantined(stream.quarantine).items()}
    return {digest: names.get(digest, "") for digest in digests} | aside

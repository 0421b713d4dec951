"""A finished round becomes a version: files first, then the entry, then the alias."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bhpeft.errors import RegistryError
from bhpeft.registry import package
from bhpeft.registry.connection import Connection
from bhpeft.registry.records import CANDIDATE, DECISIONS, STREAM, prefixed
from bhpeft.registry.round_run import RoundRun
from bhpeft.registry.versions import Versions


def register(
    connection: Connection,
    versions: Versions,
    run: RoundRun,
    state_folder: Path,
    decision: str,
    description: str,
    tags: Mapping[str, object],
    metadata: Mapping[str, Any],
    kind: str = STREAM,
) -> int:
    """Store a state folder as the stream's next version; see `Registry.register`.

    The entry is made in one call, tags and description with it: a crash leaves either a whole
    version, which the next attempt finds, or none.
    """
    if decision not in DECISIONS:
        raise RegistryError(
            "Unknown decision", found=repr(decision), expected=" or ".join(DECISIONS)
        )
    facts = {**facts_of(run, decision), **tags}
    sums = package.checksums(state_folder)
    versions.ensure_stream(run.stream, kind)
    model_id = package.store(connection, run, state_folder, {**facts, **metadata}, kind)
    return enter(connection, versions, run, model_id, {**facts, "sha256": sums}, description)


def facts_of(run: RoundRun, decision: str) -> dict[str, object]:
    """Return what every version's tags say, in the order a reviewer wants them."""
    return {
        "decision": decision,
        "prior_version": run.parent,
        "batch_ids": [run.batch_id],
        "batch_digests": [run.digest],
        "by": run.by,
    }


def enter(
    connection: Connection,
    versions: Versions,
    run: RoundRun,
    model_id: str,
    facts: Mapping[str, object],
    description: str = "",
) -> int:
    """Make stored files a version, point `candidate` at it and name the run after it."""
    with connection.translated(f"register a version of {run.stream!r}"):
        connection.claim_process()  # another registry of this process may have had it last
        made = connection.client.create_model_version(
            run.stream,
            f"models:/{model_id}",
            run.run_id,
            tags=prefixed(facts),
            description=description or None,
            model_id=model_id,
        )
    number = int(made.version)
    versions.point(run.stream, CANDIDATE, number)
    run.tags({"decision": facts["decision"], "version": number})
    if description:
        run.describe(description)
    run.rename(f"{run.batch_id} → v{number} {facts['decision']}")
    return number

"""Enter a version without a fit, for tests that are about moves and not about learning."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from bhpeft.registry import Registry, Version, package, registration
from bhpeft.registry.versions import Versions


def enter(
    registry: Registry,
    stream: str,
    batch: str,
    parent: int | None,
    *,
    move: bool,
    lock: Any = nullcontext,
) -> Version:
    """Register a version of an empty state, and promote it if it is to move."""
    versions = Versions(registry.connection)
    versions.ensure_stream(stream)
    with (
        registry.round_run(stream, batch, digest=f"sha-{batch}", parent=parent) as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        Path(folder, "spec.json").write_text("{}")
        stored = package.store(registry.connection, run, Path(folder), {})
        facts = registration.facts_of(run, "promoted")
        number = registration.enter(registry.connection, versions, run, stored, facts)
    if move:
        why = {"by": "a test", "reason": "all gates pass", "lock": lock}
        registry.promote(stream, number, expected_parent=parent, **why)
    return registry.version(stream, number)

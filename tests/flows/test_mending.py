"""A watch mends what a crash left half done in a stream that has nothing more to learn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import flow

from bhpeft.registry import Registry
from flows import watch
from flows.locks import ensure_limits, round_lock
from tests.registry.enter import enter

pytestmark = pytest.mark.usefixtures("prefect_server")

STREAM: Any = SimpleNamespace(name="left-half-done")


@flow(name="mending", persist_result=False)
def mending(registry: Registry) -> bool:
    ensure_limits(STREAM.name)
    return watch.mend(STREAM, registry)


def test_it_mends_unless_a_round_goes_on_which_has_mended_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only in the stream's lock: outside, the runs of a living round would look like dead ones."""
    registry = Registry(f"sqlite:///{tmp_path / 'mlflow.db'}")
    enter(registry, STREAM.name, "b1", None, move=False)
    monkeypatch.setattr(watch, "MEND_WITHIN", 0.5)
    ensure_limits(STREAM.name)

    with round_lock(STREAM.name):
        assert not mending(registry)
    assert registry.champion(STREAM.name) is None

    assert mending(registry)
    champion = registry.champion(STREAM.name)
    assert champion is not None
    assert champion.number == 1
    assert registry.repair(STREAM.name) == []

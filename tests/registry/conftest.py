from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bhpeft.registry import Registry, Version, package, registration
from bhpeft.registry.versions import Versions

Learn = Callable[..., Version]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One database for the session, since making its tables takes two seconds; a stream a test."""
    folder = tmp_path_factory.mktemp("registry")
    return Registry(f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture
def stream(request: pytest.FixtureRequest) -> str:
    return re.sub(r"\W+", "-", request.node.name)[:80].strip("-")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    save_file(
        {"mean/0.query.lora.a": torch.randn(2, 3, generator=generator)},
        folder / "posterior.safetensors",
    )
    (folder / "spec.json").write_text('{"labels": ["negative", "positive"]}')
    return folder


@pytest.fixture(scope="session")
def stored(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The files of one version, for tests that are about aliases and not about files."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "spec.json").write_text("{}")
    with registry.round_run("stored", "b0", digest="sha-b0", parent=None) as run:
        return package.store(registry.connection, run, folder, {})


@pytest.fixture
def learn(registry: Registry, stream: str, stored: str) -> Learn:
    """Run a round without a fit: enter a version and, if promoted, move the champion."""
    versions = Versions(registry.connection)

    def run_round(
        batch: str, parent: int | None, decision: str = "promoted", *, move: bool = True
    ) -> Version:
        versions.ensure_stream(stream)
        with registry.round_run(stream, batch, digest=f"sha-{batch}", parent=parent) as run:
            facts = registration.facts_of(run, decision)
            number = registration.enter(registry.connection, versions, run, stored, facts)
        if decision == "promoted" and move:
            registry.promote(
                stream, number, expected_parent=parent, by="round", reason="all gates pass"
            )
        return registry.version(stream, number)

    return run_round


@pytest.fixture
def version(registry: Registry, stream: str, state: Path) -> Version:
    """A champion with files of its own."""
    with registry.round_run(stream, "b1", digest="sha-b1", parent=None) as run:
        registry.register(run, state, decision="promoted")
    registry.promote(stream, 1, expected_parent=None, by="round", reason="all gates pass")
    return registry.version(stream, 1)

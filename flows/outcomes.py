"""Say how a round ended: its terminal state and the page a reviewer reads in Prefect's UI."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.reach import where_it_answers

if TYPE_CHECKING:
    from bhpeft.rounds import Outcome

MARKS = {"pass": "✓ pass", "fail": "✗ fail", "hold": "◦ hold", "not_evaluable": "– not evaluable"}


def state_of(outcome: Outcome) -> State[Any]:
    """Return the terminal state that names stream, batch and decision.

    A refused batch is a round that did its work: Completed. A quarantined one broke its contract,
    and somebody upstream must hear of it: Failed.
    """
    message = f"{outcome.stream} · {outcome.batch_id} · {outcome.decision}: {outcome.reason}"
    kind = Failed if outcome.decision == "quarantined" else Completed
    return kind(name=outcome.decision.capitalize(), message=message, data=outcome)


def publish(outcome: Outcome) -> None:
    """Attach the outcome to the flow run: a page with the gate table, and a link to MLflow.

    A round that has decided is not failed by a page that is missing.
    """
    key = artifact_key(outcome.stream, outcome.batch_id)
    about = f"{outcome.decision}: {outcome.reason}"
    with where_it_answers("keep the round's page"):
        create_markdown_artifact(page_of(outcome), key=key, description=about)
        if outcome.run_url:
            create_link_artifact(outcome.run_url, link_text="MLflow run", key=f"{key}-mlflow")


def page_of(outcome: Outcome) -> str:
    """Return the outcome as Markdown: decision, gates, metrics, link."""
    version = f"version {outcome.version}" if outcome.version else "no version"
    prior = f"version {outcome.prior_version}" if outcome.prior_version else "the base prior"
    lines = [
        f"# {outcome.stream} · {outcome.batch_id}: {outcome.decision}",
        "",
        f"{outcome.reason}",
        "",
        f"Made {version} from {prior} in {outcome.seconds:.0f} s; drift: {_drift(outcome.drift)}.",
    ]
    if outcome.run_url:
        lines += ["", f"[The round's MLflow run: figures, reports, files]({outcome.run_url})"]
    return "\n".join(lines + _gate_table(outcome.verdicts) + _metric_table(outcome.metrics)) + "\n"


def artifact_key(stream: str, batch_id: str) -> str:
    """Return an artifact key, which Prefect limits to lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"{stream}-{batch_id}".lower()).strip("-")


def _gate_table(verdicts: list[dict[str, Any]]) -> list[str]:
    rows = [
        f"| {v['gate']} | {MARKS.get(v['outcome'], v['outcome'])} | {_number(v.get('value'))} "
        f"| {_number(v.get('limit'))} | {v.get('reason', '')} |"
        for v in verdicts
    ]
    head = [
        "",
        "## Gates",
        "",
        "| gate | outcome | value | limit | reason |",
        "|---|---|---|---|---|",
    ]
    return head + rows if rows else []


def _metric_table(metrics: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {_number(value)} |" for name, value in metrics.items()]
    return ["", "## Metrics", "", "| metric | value |", "|---|---|", *rows] if rows else []


def _drift(flag: bool | None) -> str:
    return {True: "yes", False: "no", None: "not measured"}[flag]


def _number(value: Any) -> str:
    return (
        f"{value:.4g}" if isinstance(value, (int, float)) else "–" if value is None else str(value)
    )

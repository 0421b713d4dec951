"""Addresses of MLflow's pages, for people."""

from __future__ import annotations

from bhpeft.registry.records import Version
from bhpeft.registry.round_run import RoundRun
from bhpeft.secrecy import without_login

# MLflow 3 opens on traces of GenAI applications and shows neither runs nor models before somebody
# finds the switch "Model training"; the address can turn it, and the browser remembers.
TRAINING = "workflowType=machine_learning"


def front(server: str) -> str:
    """Return the page to begin with: every stream's rounds and moves."""
    return f"{_bare(server)}/#/experiments?{TRAINING}"


def page(server: str, record: Version | RoundRun) -> str | None:
    """Return the page of a version or a run; None if `server` is a database, which has none."""
    uri = _bare(server)
    if not uri.startswith("http"):
        return None
    if isinstance(record, Version):
        return f"{uri}/#/models/{record.stream}/versions/{record.number}?{TRAINING}"
    return f"{uri}/#/experiments/{record.experiment_id}/runs/{record.run_id}?{TRAINING}"


def _bare(server: str) -> str:
    return without_login(server).rstrip("/")

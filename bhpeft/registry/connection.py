"""The door to MLflow: one client, its experiments, and its errors in bhpeft's words.

Nothing outside `bhpeft.registry` imports MLflow, and here it is imported on first use only: it
takes two seconds.
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from bhpeft.errors import BhpeftError, NotAllowed, RegistryError, RegistryUnreachable
from bhpeft.secrecy import SILENCE, without_login

PROBE_SECONDS = 3.0

SETTINGS = SILENCE | {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # MLflow waits 4 minutes for a dead server by default. Five retries, 0 + 2 + 4 + 8 + 16 seconds
    # apart, outlast a server's restart in the middle of a round (7 s on an idle machine, 23 s on a
    # busy one); a server that is not there to begin with is found by `_probe` at once.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


class Connection:
    """One MLflow server or database.

    Attributes:
        uri: `http://host:port`, or `sqlite:////folder/mlflow.db` for a process on its own.
    """

    def __init__(self, tracking_uri: str | None = None):
        quiet()
        self._asked = tracking_uri
        self._experiments: dict[str, str] = {}

    @cached_property
    def uri(self) -> str:
        """Return the address; MLflow's own default (`MLFLOW_TRACKING_URI`) if none was given."""
        return self._asked or _mlflow().get_tracking_uri()

    @cached_property
    def client(self) -> Any:
        """Return the `MlflowClient`.

        Raises:
            RegistryUnreachable: nobody answers at the address; known within `PROBE_SECONDS`.
        """
        _probe(self.uri)
        with self.translated("open the registry"):
            self.claim_process()
            return _mlflow().MlflowClient(self.uri, registry_uri=self.uri)

    def claim_process(self) -> None:
        """Point MLflow's process-wide address here.

        Some of MLflow's calls resolve `models:/` through it, whatever client they are made with.
        """
        _mlflow().set_tracking_uri(self.uri)
        _mlflow().set_registry_uri(self.uri)

    def experiment(self, name: str, description: str = "") -> str:
        """Return the id of an experiment, made on first use.

        Raises:
            RegistryError: somebody deleted it; MLflow keeps its name reserved.
        """
        if name not in self._experiments:
            self._experiments[name] = self._opened(name, description)
        return self._experiments[name]

    def known_experiment(self, name: str) -> str | None:
        """Return the id of an experiment, or None if there is none yet."""
        if name not in self._experiments:
            with self.translated(f"look up experiment {name!r}"):
                found = self.client.get_experiment_by_name(name)
            if found is None:
                return None
            self._experiments[name] = self._living(found)
        return self._experiments[name]

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn MLflow's, the network's and the disk's errors inside into bhpeft's.

        Args:
            doing: completes "could not …".

        Raises:
            RegistryUnreachable: the server stopped answering.
            RegistryError: everything else.
        """
        from mlflow.exceptions import MlflowException
        from requests.exceptions import ConnectionError as NoConnection
        from requests.exceptions import RequestException, Timeout

        try:
            yield
        except BhpeftError:
            raise
        except (NoConnection, TimeoutError, Timeout) as problem:
            raise unreachable(self.uri, problem) from problem
        except MlflowException as problem:
            raise self._in_our_words(doing, problem) from problem
        except (OSError, RequestException) as problem:
            raise RegistryError(
                f"The registry could not {doing}",
                found=f"{type(problem).__name__}: {problem}",
                remedy="No alias was moved. Free space or mend the store, then run it again.",
            ) from problem

    def _in_our_words(self, doing: str, problem: Exception) -> RegistryError:
        text = " ".join(str(problem).split())
        if "API request to" in text and "failed with" in text and "exception" in text:
            return unreachable(self.uri, problem)
        if "Permission denied" in text or "PERMISSION_DENIED" in text:
            return NotAllowed(
                f"The registry's log-in does not allow to {doing}",
                found=f"{account() or 'nobody logged in'} at {self.uri}",
                expected="one with EDIT permission on the stream's model and experiments",
                remedy="No alias was moved. Ask somebody who may, or an administrator for it.",
            )
        remedy = "No alias was moved; the server's log says more."
        if "Invalid Host header" in text:
            remedy = "Start the server with `--allowed-hosts` naming this host."
        return RegistryError(f"The registry could not {doing}", found=text[:400], remedy=remedy)

    def _opened(self, name: str, description: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.known_experiment(name)
        if found is not None:
            return found
        try:
            with self.translated(f"make experiment {name!r}"):
                return self.client.create_experiment(
                    name,
                    artifact_location=_artifacts_beside(self.uri),
                    tags={"mlflow.note.content": description} if description else None,
                )
        except RegistryError as problem:
            cause = problem.__cause__
            code = cause.error_code if isinstance(cause, MlflowException) else ""
            made_meanwhile = code == "RESOURCE_ALREADY_EXISTS" and self.known_experiment(name)
            if not made_meanwhile:
                raise
            return made_meanwhile

    def _living(self, experiment: Any) -> str:
        if experiment.lifecycle_stage != "active":
            raise RegistryError(
                f"MLflow experiment {experiment.name!r} was deleted",
                expected="the record of the stream's rounds and moves",
                remedy=f"Bring it back: `mlflow experiments restore -x {experiment.experiment_id}`"
                f" with MLFLOW_TRACKING_URI={self.uri}.",
            )
        return experiment.experiment_id


def unreachable(uri: str, problem: BaseException) -> RegistryUnreachable:
    """Return the error for a registry that does not answer."""
    reason = getattr(problem, "reason", problem)
    return RegistryUnreachable(
        f"The MLflow registry at {uri} does not answer",
        found=" ".join(str(reason).split())[:200],
        remedy="Start it (`bhpeft up`, or `mlflow server`), or correct the address; the batch "
        "stays pending and the champion is untouched.",
    )


def account() -> str:
    """Return who this process is logged in as at the MLflow server; empty without a log-in."""
    return os.environ.get("MLFLOW_TRACKING_USERNAME", "")


def quiet() -> None:
    """Set MLflow's environment where the user has not: no telemetry, no chatter, short waits.

    MLflow reads it when it is imported, so this comes first.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def pyfunc() -> Any:
    """Return `mlflow.pyfunc`, imported without the warnings it has about its own type hints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("mlflow.pyfunc")


def _mlflow() -> Any:
    import mlflow

    return mlflow


def _probe(uri: str) -> None:
    """Ask for `/health` once, so that a missing server is known in seconds."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        urlopen(without_login(uri).rstrip("/") + "/health", timeout=PROBE_SECONDS).close()
    except HTTPError as answer:
        answer.close()  # It answers; whether it likes the question is for MLflow to find out.
    except (URLError, TimeoutError, ConnectionError) as problem:
        if isinstance(getattr(problem, "reason", None), ssl.SSLError):
            return  # MLflow has certificate settings of its own.
        raise unreachable(uri, problem) from problem


def _artifacts_beside(uri: str) -> str | None:
    """Return where a bare database keeps files: beside it, not in the current folder."""
    if not uri.startswith("sqlite:///"):
        return None
    database = Path(uri.removeprefix("sqlite:///")).absolute()
    return (database.parent / "mlartifacts").as_uri()

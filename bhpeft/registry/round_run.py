"""The record of one round: one MLflow run, written with few calls."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhpeft.errors import BhpeftError, FitError, RegistryError
from bhpeft.registry.connection import Connection
from bhpeft.registry.records import PREFIX, QUARANTINED, UNEXPECTED, one_line, prefixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Who acts where nobody is named.
WHO = "bhpeft"
METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
# Enough to tell batches apart in the UI; the whole fingerprint is the tag bhpeft.batch_digest.
_DIGEST_WIDTH = 16

_NOTE = (
    "The rounds of stream **{stream}**, one run each: the batch it learned, the metrics, the "
    "report. Versions and aliases are under Models → {stream}; moves of the champion in "
    "`bhpeft/{stream}/moves`."
)


class RoundRun:
    """What a round writes down while it goes; made by `Registry.round_run`.

    Attributes:
        stream, batch_id, digest: the batch and its stream.
        parent: the version whose posterior is the prior; None for a first round.
        by: who asked for the round.
        run_id, experiment_id: the MLflow run.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        batch_id: str,
        digest: str,
        parent: int | None,
        by: str,
        experiment_id: str,
        run_id: str,
    ):
        self._connection = connection
        self.stream = stream
        self.batch_id = batch_id
        self.digest = digest
        self.parent = parent
        self.by = by
        self.experiment_id = experiment_id
        self.run_id = run_id

    def tags(self, facts: Mapping[str, object]) -> None:
        """Set tags; a name without a dot gets the prefix `bhpeft.`."""
        from mlflow.entities import RunTag

        items = [RunTag(key, value) for key, value in prefixed(facts).items()]
        for piece in _pieces(items, PARAMS_A_CALL):
            self._log("tags", tags=piece)

    def params(self, values: Mapping[str, object]) -> None:
        """Record the round's settings."""
        from mlflow.entities import Param

        items = [Param(key, str(value)) for key, value in values.items()]
        for piece in _pieces(items, PARAMS_A_CALL):
            self._log("parameters", params=piece)

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        """Record numbers of the whole round; those not evaluable (None) are left out."""
        self.curve([{"step": step, **values}])

    def curve(self, points: Sequence[Mapping[str, float | None]]) -> None:
        """Record metrics over steps; each point is {"step": n, metric: value, …}."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        items = [
            Metric(name, float(value), now, int(point.get("step") or 0))
            for point in points
            for name, value in point.items()
            if name != "step" and value is not None
        ]
        for piece in _pieces(items, METRICS_A_CALL):
            self._log("metrics", metrics=piece)

    def figures(self, figures: Mapping[str, Figure], folder: str = "figures") -> None:
        """Store figures as PNG, all in one upload."""
        with tempfile.TemporaryDirectory(prefix="bhpeft-") as staging:
            for name, figure in figures.items():
                path = Path(staging, folder, name if name.endswith(".png") else f"{name}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                figure.savefig(path, dpi=120)
            self._upload(staging)

    def files(self, files: Mapping[str, Path | str]) -> None:
        """Store local files or folders, each under its artifact path, in one upload."""
        with tempfile.TemporaryDirectory(prefix="bhpeft-") as staging:
            for name, source in files.items():
                path = Path(staging, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if Path(source).is_dir() else shutil.copyfile)(source, path)
            self._upload(staging)

    def json(self, name: str, value: Any) -> None:
        """Store a value as a JSON file."""
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        self.text(name if name.endswith(".json") else f"{name}.json", text)

    def text(self, name: str, text: str) -> None:
        """Store a text file: Markdown, HTML."""
        with tempfile.TemporaryDirectory(prefix="bhpeft-") as staging:
            path = Path(staging, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            self._upload(staging)

    def dataset(
        self, *, source: str, rows: int, schema: Mapping[str, str], context: str = "training"
    ) -> None:
        """Show the batch as the run's dataset.

        For display: the identity is our own SHA-256, since MLflow's digest depends on the order of
        rows and ignores those past the 10,000th.

        Args:
            source: where the batch lies.
            rows: its rows.
            schema: column → type.
            context: what it was used for.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        columns = [{"name": name, "type": kind, "required": True} for name, kind in schema.items()]
        shown = Dataset(
            name=self.batch_id,
            digest=self.digest.removeprefix("sha256:")[:_DIGEST_WIDTH],
            source_type="local",
            source=json.dumps({"uri": source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": rows}),
        )
        tags = [InputTag("mlflow.data.context", context), InputTag("sha256", self.digest)]
        with self._connection.translated("record the batch"):
            self._connection.client.log_inputs(self.run_id, [DatasetInput(shown, tags)])

    def rename(self, name: str) -> None:
        """Give the run another name in the UI."""
        with self._connection.translated("rename the run"):
            self._connection.client.update_run(self.run_id, name=name)

    def describe(self, markdown: str) -> None:
        """Set the description that the run's page shows."""
        self.tags({"mlflow.note.content": markdown})

    def end(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        with self._connection.translated("close the run"):
            self._connection.client.set_terminated(self.run_id, status)

    def _log(self, what: str, **batch: Any) -> None:
        with self._connection.translated(f"record the {what} of {self.batch_id!r}"):
            self._connection.client.log_batch(self.run_id, **batch)

    def _upload(self, folder: str) -> None:
        with self._connection.translated(f"store the files of {self.batch_id!r}"):
            self._connection.client.log_artifacts(self.run_id, folder)


@contextmanager
def opened(
    connection: Connection,
    stream: str,
    batch_id: str,
    *,
    digest: str,
    parent: int | None,
    tags: Mapping[str, object],
    by: str = WHO,
) -> Iterator[RoundRun]:
    """Open the run of a round and close it, whatever happens inside.

    Args:
        connection: where.
        stream: the stream.
        batch_id: the batch's name.
        digest: its fingerprint, our own SHA-256.
        parent: the version whose posterior is the prior.
        tags: more facts; a name without a dot gets the prefix `bhpeft.`.
        by: who asked for the round.
    """
    experiment = connection.experiment(f"bhpeft/{stream}", _NOTE.format(stream=stream))
    facts = {
        "stream": stream,
        "batch_id": batch_id,
        "batch_digest": digest,
        "prior_version": parent,
        "by": by,
        "mlflow.source.name": "bhpeft round",
        **tags,
    }
    with connection.translated(f"open the run of {batch_id!r}"):
        info = connection.client.create_run(
            experiment, tags=prefixed(facts), run_name=batch_id
        ).info
    run = RoundRun(connection, stream, batch_id, digest, parent, by, experiment, info.run_id)
    try:
        yield run
    except BaseException as problem:
        _fail(run, problem)
        raise
    run.end("FINISHED")


def quarantined(
    connection: Connection,
    stream: str,
    batch_id: str,
    digest: str,
    error: str,
    reasons: Iterable[Any],
    rows: Path | None,
) -> RoundRun:
    """Record a batch that cannot be learned as a short run, and return it.

    Its tag `bhpeft.failure` is what every machine reads, so it is set last: until the reasons and
    rows are stored the batch is pending, and is looked at again.
    """
    facts = {"decision": "quarantined", "error": " ".join(error.split())}
    with opened(connection, stream, batch_id, digest=digest, parent=None, tags=facts) as run:
        run.rename(f"{batch_id} quarantined")
        run.describe(f"**Quarantined.** {error}")
        run.json("reasons", list(reasons))
        if rows is not None:
            run.files({rows.name: rows})
        run.tags({"failure": QUARANTINED})
    return run


def _fail(run: RoundRun, problem: BaseException) -> None:
    """Mark the run as failed without hiding why it did."""
    try:
        run.tags({PREFIX + "error": one_line(problem), **_failure(problem)})
        run.end("FAILED" if isinstance(problem, Exception) else "KILLED")
    except RegistryError as second:
        problem.add_note(f"Its MLflow run {run.run_id} could not be marked failed: {second}")


def _failure(problem: BaseException) -> dict[str, str]:
    """Return the failure's name where it lies in the batch or its training, not in a server."""
    if isinstance(problem, FitError):
        return {"failure": type(problem).__name__}
    elsewhere = isinstance(problem, BhpeftError | OSError) or not isinstance(problem, Exception)
    return {} if elsewhere else {"failure": UNEXPECTED}


def _pieces(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece

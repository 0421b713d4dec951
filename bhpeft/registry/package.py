"""A state folder as a registered MLflow model, and back.

Stored are safetensors, JSON and one Python file (`pyfunc_model.py`, MLflow's "models from code");
there is no pickle. The SHA-256 of every file is a tag of the version and is checked on the way
back, so that a posterior altered in the store is never taken for a prior.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import copytree
from typing import Any

from bhpeft.errors import StateError
from bhpeft.registry.connection import Connection, pyfunc
from bhpeft.registry.records import POPULATION, STREAM, Version, history_command
from bhpeft.registry.round_run import RoundRun
from bhpeft.tasks import Task, task

ALLOWED = (".safetensors", ".json")
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")

# What the stored code needs to predict, at the versions it was learned with. bhpeft itself must
# come from an index that has it, or be installed already (`--env-manager local`).
_NEEDED = ("bhpeft", "mlflow", "numpy", "pandas", "safetensors", "torch", "transformers")


def checksums(folder: Path) -> dict[str, str]:
    """Return file → SHA-256 of every file in a state folder.

    Raises:
        StateError: no files, or a file that is neither safetensors nor JSON.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    odd = [path.name for path in files if path.suffix not in ALLOWED]
    if odd or not files:
        raise StateError(
            f"The state folder {folder.name!r} cannot be registered",
            found=", ".join(odd) or "no files",
            expected="only " + " and ".join(ALLOWED) + " files",
            remedy="Write it with AdapterState.save into an empty folder.",
        )
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def store(
    connection: Connection,
    run: RoundRun,
    folder: Path,
    metadata: Mapping[str, Any],
    kind: str = STREAM,
) -> str:
    """Upload a state folder as a logged model of the run; return its MLflow id (`m-…`)."""
    client = connection.client
    connection.claim_process()
    with connection.translated(f"store the posterior of {run.batch_id!r}"):
        from mlflow.entities import LoggedModelOutput

        logged = client.create_logged_model(
            run.experiment_id,
            name=run.stream,
            source_run_id=run.run_id,
            model_type=_TYPES[kind],
            tags={"bhpeft.stream": run.stream, "bhpeft.batch_id": run.batch_id},
        )
        try:
            with tempfile.TemporaryDirectory(prefix="bhpeft-") as staging:
                packed = _PACKS[kind](folder, Path(staging), run, logged, metadata)
                client.log_model_artifacts(logged.model_id, str(packed))
        except BaseException:
            client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return str(logged.model_id)


def fetch(connection: Connection, wanted: Version, folder: Path) -> Path:
    """Put a version's state folder at `folder`, checked; nothing is fetched if it is there.

    Raises:
        StateError: its files are not those that were registered.
    """
    if folder.is_dir() and _found(folder) == wanted.checksums:
        return folder
    if not wanted.has_files:
        raise StateError(
            f"The files of {wanted} were removed by `bhpeft gc`",
            expected="a version that is still kept whole",
            remedy=f"See `{history_command(wanted.stream)}`.",
        )
    client = connection.client
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        connection.translated(f"fetch {wanted}"),
        tempfile.TemporaryDirectory(dir=folder.parent) as staging,
    ):
        from mlflow.artifacts import download_artifacts

        where = client.get_model_version_download_uri(wanted.stream, str(wanted.number))
        fetched = Path(
            download_artifacts(
                artifact_uri=f"{where}/artifacts/adapter",
                dst_path=staging,
                tracking_uri=connection.uri,
            )
        )
        verify(wanted, fetched)
        folder.mkdir(exist_ok=True)
        for name in wanted.checksums:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(fetched / name, folder / name)
    return folder


def verify(wanted: Version, folder: Path) -> None:
    """Compare a folder with the checksums of a version.

    Raises:
        StateError: a file is missing, altered or was not there.
    """
    if not wanted.checksums:
        raise StateError(
            f"{wanted} has no checksums",
            expected="a version registered by bhpeft",
            remedy="Roll back to one that was.",
        )
    verify_folder(folder, wanted.checksums, str(wanted))


def verify_folder(folder: Path, expected: Mapping[str, str], what: str) -> None:
    """Compare a folder's files with the SHA-256 each should have.

    Raises:
        StateError: a file is missing, altered or was not there.
    """
    found = _found(folder)
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        raise StateError(
            f"The stored files of {what} are not those that were registered",
            found="; ".join(f"{name}: {_short(found.get(name))}" for name in wrong),
            expected="; ".join(f"{name}: {_short(expected.get(name))}" for name in wrong),
            remedy="Restore the store from a backup, or `bhpeft rollback STREAM --to …`.",
        )


def pip_requirements() -> list[str]:
    """Return the installed versions of what predicting needs, without local parts (`+cpu`)."""
    found = []
    for name in _NEEDED:
        try:
            found.append(f"{name}=={version(name).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(name)
    return found


def _pack(
    folder: Path, staging: Path, run: RoundRun, logged: Any, metadata: Mapping[str, Any]
) -> Path:
    import pandas as pd

    said = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    predicted = task(said.get("task", "classification"), said.get("task_settings"))
    # MLflow names the stored folder after the local one; ours is always "adapter".
    adapter = copytree(folder, staging / "adapter")
    model = _model(run, logged, metadata)
    pyfunc().save_model(
        str(staging / "model"),
        python_model=str(MODEL_CODE),
        artifacts={"adapter": str(adapter)},
        signature=_signature(predicted),
        mlflow_model=model,
        pip_requirements=pip_requirements(),
        model_config={"sha256": checksums(folder)},
        input_example=pd.DataFrame(
            {
                name: [["one", "another"] if kind == "strings" else "a text"]
                for name, kind in predicted.asked.items()
            }
        ),
    )
    return staging / "model"


def _pack_plain(
    folder: Path, staging: Path, run: RoundRun, logged: Any, metadata: Mapping[str, Any]
) -> Path:
    """Pack files that predict nothing by themselves, where `fetch` looks for them."""
    copytree(folder, staging / "model" / "artifacts" / "adapter")
    _model(run, logged, metadata).save(str(staging / "model" / "MLmodel"))
    return staging / "model"


_PACKS = {STREAM: _pack, POPULATION: _pack_plain}
_TYPES = {STREAM: "bhpeft adapter posterior", POPULATION: "bhpeft population prior"}


def _model(run: RoundRun, logged: Any, metadata: Mapping[str, Any]) -> Any:
    """Return MLflow's description of a model, with what it is to say of ours."""
    from mlflow.models import Model

    return Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        run_id=run.run_id,
        model_id=logged.model_id,
        metadata=json.loads(json.dumps(dict(metadata), default=str)),
    )


def _signature(predicted: Task) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, DataType

    asked, kinds = predicted.asked, {"strings": Array(DataType.string)}

    return ModelSignature(
        inputs=Schema([ColSpec(kinds.get(kind, kind), name) for name, kind in asked.items()]),
        outputs=Schema([ColSpec(kind, name) for name, kind in predicted.answers.items()]),
        # -1 stands for the version's own number of draws: MLflow wants a number here.
        params=ParamSchema([ParamSpec("draws", "integer", -1)]),
    )


def _found(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "no file"

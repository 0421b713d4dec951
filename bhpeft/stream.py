"""Read a stream file: the one TOML that says what a stream learns, from what, and when.

The file is read in one place and becomes a frozen value. A key nobody knows is refused with the
closest one that exists, because a typo in `kl_wieght` would otherwise train for months.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from bhpeft.delivery import Data
from bhpeft.errors import StreamFileError, did_you_mean
from bhpeft.models.section import Model
from bhpeft.operation import Approval, Compute, Notify, Retention, Retry, Schedule
from bhpeft.section import Section
from bhpeft.tasks.section import Predicted

if TYPE_CHECKING:
    from bhpeft.learning.plan import Plan

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
STREAM_FOLDERS = ("streams", "deploy/streams")


class Adaptive(Section):
    """Which ρ is tried beside the usual one when the data drift."""

    # Where the data drift, to start over was better than to keep a tenth or half of the past, on
    # a conjugate model (tests/rounds/test_adaptive_forgetting.py) and after a flip (R6 of
    # docs/reproduction.md); where the past still serves, the usual ρ wins the comparison.
    drifted: float = Field(0.0, ge=0, le=1)


class Learning(Section):
    """The variant, its methods, the objective's two numbers and the optimiser's schedule."""

    variant: str = "bh_peft"
    gaussian: bool = True
    estimator: Literal["", "shared", "per_example", "flipout", "mean"] = Field(
        "", description="how a step draws its noise; empty for the variant's"
    )
    methods: tuple[str, ...] = ()
    start: Path | None = Field(None, description="a PEFT LoRA checkpoint the first round starts at")
    start_as: Literal["prior", "version"] = Field(
        "prior", description="learn on from it at once, or judge it first as it is"
    )
    group: str = Field("", description="streams that share a population prior; see docs/methods.md")
    # All six layers of MiniLM were surely better than the top two, by 0.022 nats, at 3.5 times the
    # CPU time of a training (A4 of docs/reproduction.md).
    adapted_layers: int | None = Field(None, ge=1, description="adapt only the top n layers")
    kl_weight: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="λ; constant over rounds"
    )
    forgetting: float = Field(1.0, ge=0, le=1, description="ρ; 1 forgets nothing")
    adaptive: Adaptive | None = None
    seed: int = 0
    plan: dict[str, Any] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    plugins: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather_methods(cls, content: Any) -> Any:
        """Take every table that is named like a method as its settings: [learning.lora] and so on.

        Others stay where they are, to be refused as unknown keys.
        """
        if not isinstance(content, dict):
            return content
        tables = {
            name: table
            for name, table in content.items()
            if name not in cls.model_fields and isinstance(table, dict) and _names(content, name)
        }
        rest = {name: value for name, value in content.items() if name not in tables}
        return rest | {"settings": rest.get("settings", {}) | tables} if tables else rest

    @model_validator(mode="after")
    def _group_fits(self) -> Learning:
        if self.group and not NAME.fullmatch(self.group):
            raise ValueError("a group's name is letters, digits, - and _, at most 64 of them")
        if self.group and (self.start is not None or not self.gaussian):
            raise ValueError(
                "a group starts at its population and shares posteriors: neither start nor "
                "gaussian = false goes with it"
            )
        return self

    @model_validator(mode="after")
    def _has_a_start(self) -> Learning:
        if self.start_as == "version" and self.start is None:
            raise ValueError('"version" needs a checkpoint: name its folder as learning.start')
        return self

    def settings_of(self, method: str) -> dict[str, Any]:
        """Return the settings the file gives one method."""
        return dict(self.settings.get(method, self.plugins.get(method, {})))


class Prediction(Section):
    """How a prediction comes about, how many draws it takes and when it abstains."""

    # Some way was closer to the gold than ten draws of all weights are, ranked rows better and cost
    # a fraction, on every posterior measured; which one depends on pooling and classes, so each
    # stream measures its own (`python -m benchmarks predict`).
    predictor: str = Field("auto", description="mean, full, last_layer, calibrated, linear, auto")
    # Of the same posteriors one draw was surely worse than eight, by 0.10 nats, three and five by
    # 0.02; ten to forty were better by 0.005 at most (A3 of docs/reproduction.md).
    draws: int = Field(8, ge=0, le=1000)
    abstain_share: float = Field(0.1, ge=0, lt=1, description="share of known rows that abstains")
    fidelity_rows: int = Field(32, ge=0, description="unseen rows it is measured on; 0 for none")
    fidelity_draws: int = Field(100, ge=20, le=10_000, description="draws of the gold")


class DriftColumn(Section):
    """How one column's drift is measured, and from where on it counts."""

    method: str
    threshold: float
    kind: Literal["", "numerical", "categorical", "text", "table"] = ""


class Tracking(Section):
    """Where rounds are recorded."""

    uri: str | None = Field(None, description="default: $MLFLOW_TRACKING_URI, else home/mlflow.db")


class Stream(Section):
    """One adapter's sequence of batches, as its file says."""

    name: str
    description: str = ""
    home: Path
    task: Predicted = Predicted()
    data: Data
    model: Model
    learning: Learning = Learning()
    prediction: Prediction = Prediction()
    drift: dict[str, DriftColumn] = Field(default_factory=dict)
    gates: dict[str, dict[str, float] | bool] = Field(default_factory=dict)
    compute: Compute = Compute()
    schedule: Schedule = Schedule()
    approval: Approval = Approval()
    retry: Retry = Retry()
    retention: Retention = Retention()
    notify: Notify = Notify()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _counts_rows_once(self) -> Stream:
        if self.data.replay_rows == "all" and self.learning.forgetting > 0:
            raise ValueError(
                'learning.forgetting = 0 beside replay_rows = "all": a round that learns all rows '
                "again must not start from a posterior that knows them"
            )
        return self

    @model_validator(mode="after")
    def _each_process_has_its_device(self) -> Stream:
        if not self.compute.alone and self.model.device != "auto":
            raise ValueError(
                'model.device = "auto" beside compute.processes: each process has a device of its '
                "own; CUDA_VISIBLE_DEVICES says which there are"
            )
        return self

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a stream's name is letters, digits, - and _, at most 64 of them")
        return name

    @property
    def contract(self) -> Path:
        """Return the contract's path."""
        return self.home / self.data.contract

    @property
    def landing(self) -> Path:
        """Return the folder in which each stream has a folder of batches, if it is a folder."""
        return self.home / self.data.landing

    @property
    def location(self) -> str:
        """Return where batches land: a folder, a bucket's or a table's address."""
        return self.data.location(self.home)

    @property
    def quarantine(self) -> Path:
        """Return the folder that keeps this stream's malformed batches' rows and reasons."""
        return self.home / self.data.quarantine / self.name

    @property
    def cache(self) -> Path:
        """Return the folder of what can be made again at any time."""
        return self.home / ".cache" / "bhpeft" / self.name

    @property
    def start(self) -> Path | None:
        """Return the folder of the PEFT checkpoint that round 0 starts from, if there is one."""
        return None if self.learning.start is None else self.home / self.learning.start

    @property
    def tracking_uri(self) -> str:
        """Return MLflow's address: the file's, the environment's, or a SQLite file at home."""
        named = self.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
        return named or f"sqlite:///{(self.home / 'mlflow.db').resolve()}"


def read_stream(path: Path, home: Path | None = None) -> Stream:
    """Read the stream file at `path`; its relative paths start at `home`.

    Raises:
        StreamFileError: unreadable, not TOML, an unknown key or a value that does not fit.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise StreamFileError(
            f"There is no stream file {path}",
            expected="a TOML file",
            remedy=f"Create one with: bhpeft init {path.stem}",
        ) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise StreamFileError(
            f"{path} is not a TOML file", found=str(problem), remedy="Correct the line it names."
        ) from problem
    except OSError as problem:
        raise StreamFileError(
            f"{path} cannot be read", found=str(problem), expected="a TOML file"
        ) from problem
    if "home" in content:
        raise StreamFileError(
            f"{path}: unknown key home", remedy="Set BHPEFT_HOME, or run bhpeft in that folder."
        )
    content.setdefault("name", path.stem)
    try:
        stream = Stream.model_validate({**content, "home": (home or find_home()).resolve()})
    except ValidationError as problem:
        raise _explained(path, problem) from problem
    _check_plan(path, stream)
    return stream


def find_home() -> Path:
    """Return $BHPEFT_HOME, or the current folder."""
    return Path(os.environ.get("BHPEFT_HOME", "."))


def find_stream(name: str, home: Path | None = None) -> Stream:
    """Return the stream called `name`, or the one whose file `name` is the path of.

    Raises:
        StreamFileError: there is none; lists those there are.
    """
    home = home or find_home()
    if name.endswith(".toml"):
        return read_stream(Path(name), home)
    known = stream_files(home)
    if name not in known:
        raise StreamFileError(
            f"There is no stream called {name!r} in {home}",
            expected=f"a file {home / STREAM_FOLDERS[0] / (name + '.toml')}",
            remedy=did_you_mean(name, known) or f"Create it with: bhpeft init {name}",
        )
    return read_stream(known[name], home)


def all_streams(home: Path | None = None) -> list[Stream]:
    """Return every stream of `home`, by name."""
    home = home or find_home()
    return [read_stream(path, home) for _, path in sorted(stream_files(home).items())]


def stream_files(home: Path) -> dict[str, Path]:
    """Return the stream files of `home` by their stem."""
    return {
        path.stem: path
        for folder in STREAM_FOLDERS
        for path in sorted((home / folder).glob("*.toml"))
    }


def _names(learning: dict[str, Any], table: str) -> bool:
    """Say whether a table of [learning] is named like a method.

    One that the stream uses is tried when it is attached; only for another is torch worth loading.
    """
    used = learning.get("methods")
    return (isinstance(used, list | tuple) and table in used) or table in _known_methods()


def _known_methods() -> list[str]:
    from bhpeft.methods import METHODS

    return list(METHODS)


def _check_plan(path: Path, stream: Stream) -> None:
    from bhpeft.learning.plan import Plan

    known = {entry.name for entry in fields(Plan)}
    for key in stream.learning.plan.keys() - known:
        raise StreamFileError(
            f"{path}: unknown key learning.plan.{key}", remedy=did_you_mean(key, known)
        )
    try:
        _plans().validate_python(stream.learning.plan)
    except ValidationError as problem:
        raise _explained(path, problem, "learning.plan.") from problem


@cache
def _plans() -> TypeAdapter[Plan]:
    """Return what checks a plan; made once, since that takes longer than reading the file."""
    from bhpeft.learning.plan import Plan

    return TypeAdapter(Plan)


def _explained(path: Path, problem: ValidationError, section: str = "") -> StreamFileError:
    errors = problem.errors()
    # A misspelt key is reported as missing too: the misspelling says more.
    first = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    place = section + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_beside(first["loc"])
        return StreamFileError(
            f"{path}: unknown key {place}", remedy=did_you_mean(str(first["loc"][-1]), known)
        )
    if first["type"] == "missing":
        return StreamFileError(
            f"{path}: {place} is missing", remedy="See docs/stream-file.md for every key."
        )
    return StreamFileError(
        f"{path}: {place or 'the file'} does not fit",
        found=repr(first["input"]),
        expected=first["msg"],
        remedy="See docs/stream-file.md for every key.",
    )


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Stream
    for part in location[:-1]:
        kind = section.model_fields[str(part)].annotation if part in section.model_fields else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return list(DriftColumn.model_fields) if location[0] == "drift" else []
        section = kind
    keys = [key for key in section.model_fields if key != "home"]
    return keys + _known_methods() if section is Learning else keys

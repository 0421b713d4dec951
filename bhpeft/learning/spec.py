"""Say what the tensors of a state mean: a state folder's spec.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bhpeft.errors import StateError
from bhpeft.tasks import Task, task

FORMAT = 1
SPEC_FILE = "spec.json"


@dataclass(frozen=True)
class Absorbed:
    """One batch the chain has learned.

    Attributes:
        batch_id, digest, rows: its name, the SHA-256 of its content and its training rows.
        labels: how many of the state's labels it knew; 0 where all of them did.
        contract_version: under which it was landed, where that is on record.
    """

    batch_id: str
    digest: str
    rows: int
    labels: int = 0
    contract_version: str = ""


@dataclass(frozen=True)
class Spec:
    """What the tensors of a state mean.

    Attributes:
        base, revision, fingerprint, layers: the base model, and the hash of its weights.
        task, task_settings, labels: what is predicted.
        pooling, max_length: how a text becomes a vector.
        methods: method name → its settings, in the order they were attached.
        variant, scale: the variant's name and how rho maps to σ.
        kl_weight, forgetting: λ and ρ of the last round.
        gauge: hash of the factors the chain started from; posteriors of different gauges describe
            different coordinates and must not be mixed.
        draws, seed: the fixed draws of the posterior predictive.
        predictor, scalars: the way to it, and what it needs (`bhpeft.learning.predictors`); states
            from before there was a choice take all draws.
        abstain_above: predictive entropy in nats above which a prediction abstains.
        absorbed: the batches learned, oldest first.
        tally: what the task keeps of the first round's answers, such as their mean and spread.
        members: how many there are of an ensemble: every point weight then has one of each.
        dropout: by part, the share of inputs that each draw leaves out.
        temperature: what logits are divided by.
        population: the group, version and gauge of the population whose N(Θ, 1/τ) the last round's
            base prior was; empty where it was the stream's own.
    """

    base: str
    revision: str
    fingerprint: str
    layers: int | None
    task: str
    labels: tuple[str, ...]
    pooling: str
    max_length: int
    methods: Mapping[str, Mapping[str, Any]]
    variant: str
    scale: str
    kl_weight: float
    forgetting: float
    gauge: str
    draws: int
    seed: int
    abstain_above: float
    absorbed: tuple[Absorbed, ...] = ()
    task_settings: Mapping[str, Any] = field(default_factory=dict)
    tally: tuple[float, ...] = ()
    members: int = 1
    dropout: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0
    predictor: str = "full"
    scalars: Mapping[str, float] = field(default_factory=dict)
    population: Mapping[str, Any] = field(default_factory=dict)

    @property
    def predicted(self) -> Task:
        """Return the task, in the units it was learned in."""
        return task(self.task, self.task_settings).knowing(self.tally)

    def as_json(self) -> str:
        """Return the spec as an indented JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read a spec back.

        Raises:
            StateError: not JSON, another format, or fields are missing.
        """
        try:
            fields = json.loads(text)
            if (found := fields.pop("format", None)) != FORMAT:
                raise StateError(
                    "The stored posterior has another format",
                    found=f"format {found}",
                    expected=f"format {FORMAT}",
                    remedy="Load it with the bhpeft version that wrote it.",
                )
            fields["labels"] = tuple(fields["labels"])
            fields["tally"] = tuple(fields.get("tally", ()))
            fields["absorbed"] = tuple(Absorbed(**entry) for entry in fields["absorbed"])
            return cls(**fields)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise StateError(
                f"{SPEC_FILE} cannot be read",
                found=str(problem),
                expected="the JSON that AdapterState.save writes",
                remedy="Roll back to a version whose files are whole.",
            ) from problem

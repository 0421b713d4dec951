"""Every error bhpeft raises on purpose, as one tree.

    BhpeftError
    ├── ConfigError              a file written by a person is wrong
    │   ├── StreamFileError        the stream's TOML
    │   ├── ContractFileError      the data contract's YAML
    │   └── UnknownName            a variant, gate, method … nobody knows
    ├── BatchError               a landed batch cannot be learned
    │   ├── BatchIncomplete        it has no manifest (yet)
    │   ├── BatchCorrupt           its files are not what the manifest says
    │   ├── BatchEmpty             it has no rows to learn from
    │   ├── BatchAlreadyLearned    the champion's chain holds it
    │   └── ContractViolation      its rows break the contract; carries them
    ├── LandingError             where batches land cannot be used; no batch is to blame
    │   └── LandingUnreachable     the store does not answer; worth a retry
    ├── ModelError               the base model cannot be used
    │   ├── UnsupportedModel       a method has no place in it
    │   └── BaseModelMismatch      it is not the one the posterior was learned on
    ├── StateError               a stored posterior is missing, misshapen or altered
    ├── CheckpointError          a PEFT checkpoint and a state cannot become each other
    ├── FitError                 the round did not end in a usable posterior
    │   ├── Diverged               the loss or a parameter is not finite
    │   ├── OutOfMemory            the machine or the GPU has too little
    │   ├── TimeLimit              training took longer than the stream allows
    │   ├── RhoTravelTooShort      too few steps for the standard deviations to arrive
    │   └── RanksFailed            one of its processes ended, or they came apart
    ├── MachinesAbsent           not all machines that share a training came; no batch is to blame
    ├── RegistryError            the record of rounds cannot be read or written
    │   ├── RegistryUnreachable    the server does not answer; worth a retry
    │   ├── UnknownVersion         no such version of this stream
    │   ├── StaleParent            the champion moved while the round ran
    │   ├── NotWaiting             the candidate does not wait for a decision
    │   └── NotAllowed             the registry's log-in, or the stream file, forbids it
    └── ServerError              a server of ours did not start or stop
        └── SchedulerUnreachable   Prefect's does not answer; worth a retry

Each says what was found, what was expected and what to do, in that order, because the reader
is on call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from bhpeft.secrecy import without_secrets


class BhpeftError(Exception):
    """The root: a sentence, and the three things a person on call needs to know."""

    def __init__(self, what: str, *, found: str = "", expected: str = "", remedy: str = ""):
        self.what = without_secrets(what)
        self.found = without_secrets(found)
        self.expected = without_secrets(expected)
        self.remedy = without_secrets(remedy)
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """Return the whole error as one line."""
        parts = [self.what.rstrip(".")]
        if self.found:
            parts.append(f"found {self.found}")
        if self.expected:
            parts.append(f"expected {self.expected}")
        text = "; ".join(parts) + "."
        return f"{text} {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, and Prefect sends exceptions
        # between processes.
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(kind: type[BhpeftError], fields: dict[str, Any]) -> BhpeftError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    Exception.__init__(error, error.message)
    return error


class ConfigError(BhpeftError):
    """A file written by a person is wrong."""


class StreamFileError(ConfigError):
    """The stream's TOML file is wrong."""


class ContractFileError(ConfigError):
    """The data contract's YAML file is wrong."""


class UnknownName(ConfigError):
    """A plug-in was named that nobody knows."""


class BatchError(BhpeftError):
    """A landed batch cannot be learned."""


class BatchIncomplete(BatchError):
    """The batch has no manifest, so it does not exist yet."""


class BatchCorrupt(BatchError):
    """The batch's files are not what its manifest says."""


class BatchEmpty(BatchError):
    """The batch has no rows to learn from."""


class BatchAlreadyLearned(BatchError):
    """The champion's chain already holds this batch; learning it twice would shrink σ to 0.71."""


class ContractViolation(BatchError):
    """Rows of the batch break its contract.

    `reasons` is one mapping a broken rule: {"column", "check", "rows", "examples"}.
    """

    def __init__(self, what: str, *, reasons: Sequence[dict[str, Any]] = (), **context: str):
        self.reasons = list(reasons)
        super().__init__(what, **context)


class LandingError(BhpeftError):
    """The place where batches land cannot be used; the batches in it are not to blame."""


class LandingUnreachable(LandingError):
    """The object store or table where batches land does not answer."""


class ModelError(BhpeftError):
    """The base model cannot be used."""


class UnsupportedModel(ModelError):
    """A method has no place in this model."""


class BaseModelMismatch(ModelError):
    """The base model is not the one the posterior was learned on."""


class StateError(BhpeftError):
    """A stored posterior is missing, misshapen or altered."""


class CheckpointError(BhpeftError):
    """A PEFT checkpoint and a state cannot become each other."""


class FitError(BhpeftError):
    """The round did not end in a usable posterior."""


class Diverged(FitError):
    """The loss or a parameter is not finite."""


class OutOfMemory(FitError):
    """The machine or the GPU has too little memory for the round."""


class TimeLimit(FitError):
    """Training took longer than the stream file allows."""


class RhoTravelTooShort(FitError):
    """The round has too few steps for the standard deviations to reach their optimum."""


class RanksFailed(FitError):
    """A training on several processes lost one of them, or they came apart."""


class MachinesAbsent(BhpeftError):
    """Machines that should have shared a training did not come in time; worth a retry."""


class RegistryError(BhpeftError):
    """The record of rounds cannot be read or written."""


class RegistryUnreachable(RegistryError):
    """The registry's server does not answer."""


class UnknownVersion(RegistryError):
    """The stream has no such version."""


class StaleParent(RegistryError):
    """The champion moved while the round ran; its candidate continues a chain no longer in use."""


class NotWaiting(RegistryError):
    """The candidate does not wait for a person's decision."""


class NotAllowed(RegistryError):
    """The registry's log-in, or the stream's rule of the second person, forbids it."""


class ServerError(BhpeftError):
    """A server bhpeft started did not come up or go down."""


class SchedulerUnreachable(ServerError):
    """Prefect's server, which keeps the locks, does not answer."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return « Did you mean …? » for the closest known name, or the list of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known names: {', '.join(names)}." if names else ""

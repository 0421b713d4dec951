"""The posterior as a value: safetensors for tensors, JSON for what they are. No pickle.

A state folder holds

    spec.json              what was learned, on which base, by which methods, from which batches
    posterior.safetensors  mean/…, rho/…, prior_mean/…, prior_rho/… of the Gaussian weights and
                           point/…, precision/… of the point weights, each under its weight's name

so that a diff of two versions reads as weights, and an error can name the one that does not fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bhpeft.errors import BaseModelMismatch, StateError
from bhpeft.learning.spec import SPEC_FILE, Absorbed, Spec
from bhpeft.posterior import MeanField, flatten, unflatten
from bhpeft.posterior.meanfield import Shapes

__all__ = ["Absorbed", "AdapterState", "Spec", "gauge_of", "layout"]

TENSOR_FILE = "posterior.safetensors"


@dataclass(frozen=True)
class AdapterState:
    """All that a round leaves behind and the next one starts from.

    Attributes:
        posterior: q over the Gaussian weights.
        prior: the base prior N(m0, s0²) that forgetting falls back to, in the posterior's layout.
        point: the point weights by name.
        precision: π of each point weight's anchor, the online diagonal Fisher, by name.
        spec: what these tensors are.
    """

    posterior: MeanField
    prior: MeanField
    point: Mapping[str, Tensor]
    precision: Mapping[str, Tensor]
    spec: Spec

    @property
    def shapes(self) -> Shapes:
        """Return the layout of all weights, Gaussian first."""
        return {**self.posterior.shapes, **layout(self.point)}

    @property
    def size_bytes(self) -> int:
        """Return the size of all tensors together."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def save(self, folder: Path) -> Path:
        """Write the state into `folder` and return it."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors(), folder / TENSOR_FILE)
        (folder / SPEC_FILE).write_text(self.spec.as_json(), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path) -> AdapterState:
        """Read a state, checked against its own layout.

        Raises:
            StateError: a file or tensor is missing, misshapen, unexpected or not finite.
        """
        spec = Spec.from_json(_read(folder / SPEC_FILE))
        tensors = _read_tensors(folder / TENSOR_FILE)
        groups = _grouped(tensors)
        shapes = layout(groups["mean"])
        for group in ("rho", "prior_mean", "prior_rho"):
            _check_fits(group, groups[group], shapes)
        _check_fits("precision", groups["precision"], layout(groups["point"]))
        flat = {
            group: flatten(groups[group], shapes)
            for group in ("mean", "rho", "prior_mean", "prior_rho")
        }
        return cls(
            posterior=MeanField(flat["mean"], flat["rho"], shapes, spec.scale),
            prior=MeanField(flat["prior_mean"], flat["prior_rho"], shapes, spec.scale),
            point={name: groups["point"][name] for name in sorted(groups["point"])},
            precision={name: groups["precision"][name] for name in sorted(groups["precision"])},
            spec=spec,
        )

    @property
    def most_draws(self) -> int | None:
        """Return how many draws there are at most: None without a limit, 0 of a point estimate."""
        if self.posterior.size or self.spec.dropout:
            return None
        return self.spec.members if self.spec.members > 1 else 0

    def with_spec(self, **changes: Any) -> AdapterState:
        """Return the same tensors under a changed spec."""
        return replace(self, spec=replace(self.spec, **changes))

    def check_base(self, fingerprint: str) -> None:
        """Refuse a base model whose weights are not the ones this posterior was learned on.

        Raises:
            BaseModelMismatch: the fingerprints differ.
        """
        if fingerprint != self.spec.fingerprint:
            raise BaseModelMismatch(
                f"The base model {self.spec.base!r} is not the one this posterior was learned on",
                found=f"weights {fingerprint[:12]}",
                expected=f"weights {self.spec.fingerprint[:12]}",
                remedy="Pin the base model's revision in the stream file, or start a new stream.",
            )

    def check_layout(self, shapes: Shapes) -> None:
        """Refuse an adapter of other weights or sizes than this state has.

        Raises:
            StateError: names the first weight that is missing, unexpected or misshapen.
        """
        several = self.spec.members > 1
        one = {name: value[0] if several else value for name, value in self.point.items()}
        stored = {**unflatten(self.posterior.mean, self.posterior.shapes), **one}
        _check_fits("stored", stored, shapes)

    def _tensors(self) -> dict[str, Tensor]:
        posterior, prior = self.posterior, self.prior
        groups: dict[str, Mapping[str, Tensor]] = {
            "mean": unflatten(posterior.mean, posterior.shapes),
            "rho": unflatten(posterior.rho, posterior.shapes),
            "prior_mean": unflatten(prior.mean, prior.shapes),
            "prior_rho": unflatten(prior.rho, prior.shapes),
            "point": self.point,
            "precision": self.precision,
        }
        return {
            f"{group}/{name}": tensor.detach().cpu().contiguous().clone()
            for group, members in groups.items()
            for name, tensor in members.items()
        }


def layout(weights: Mapping[str, Tensor]) -> Shapes:
    """Return the weights' shapes in the order of their names.

    The order is part of the posterior: the fixed draws of a version are one long vector, so every
    reader of a state must cut it at the same places.
    """
    return {name: tuple(weights[name].shape) for name in sorted(weights)}


def gauge_of(fingerprint: str, weights: Mapping[str, Tensor]) -> str:
    """Return the hash that names the coordinates a chain's posteriors live in.

    (A, B) and (RA, BR⁻¹) are one function with different A: a posterior over A only means something
    together with the factors it was learned beside, and those of round 0 are where a chain starts.
    """
    digest = hashlib.sha256(fingerprint.encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


GROUPS = ("mean", "rho", "prior_mean", "prior_rho", "point", "precision")


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        if group not in groups:
            raise StateError(
                f"The stored posterior has a tensor nobody asked for: {key!r}",
                expected=f"names that start with one of {', '.join(GROUPS)}",
                remedy="Roll back to a version whose files are whole.",
            )
        if not bool(torch.isfinite(tensor).all()):
            raise StateError(
                f"Parameter {name!r} of the stored posterior is not finite",
                found=f"NaN or infinity in {key}",
                expected="finite numbers",
                remedy="Roll back to a version whose files are whole.",
            )
        groups[group][name] = tensor
    return groups


def _check_fits(group: str, found: Mapping[str, Tensor], expected: Shapes) -> None:
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        raise StateError(
            "The stored posterior does not fit the adapter",
            found="; ".join(
                f"{word} {group} of {', '.join(sorted(names)[:5])}"
                for word, names in (("no", missing), ("unexpected", extra))
                if names
            ),
            expected=f"{len(expected)} parameters",
            remedy="Use the methods and layers the posterior was learned with, or roll back.",
        )
    for name, shape in expected.items():
        if tuple(found[name].shape) != tuple(shape):
            raise StateError(
                f"Parameter {name!r} of the stored posterior does not fit",
                found=f"{group} of shape {tuple(found[name].shape)}",
                expected=f"shape {tuple(shape)}",
                remedy="Use the methods and sizes the posterior was learned with, or roll back.",
            )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise _unreadable(path, problem) from problem


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise _unreadable(path, problem) from problem


def _unreadable(path: Path, problem: Exception) -> StateError:
    return StateError(
        f"{path.name} of the stored posterior cannot be read",
        found=str(problem),
        expected="the file that AdapterState.save writes",
        remedy="Fetch the version again, or roll back to one whose files are whole.",
    )

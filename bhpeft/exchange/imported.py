"""Read a PEFT LoRA checkpoint as the state a stream starts from: any LoRA becomes Bayesian.

The checkpoint is a point estimate. It becomes the posterior's mean, and the first prior's: what it
knows is what is known before the first round, and what forgetting falls back to. The widths are the
variant's, as for any stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from bhpeft.errors import CheckpointError
from bhpeft.exchange.checkpoint import HEADS, Checkpoint, read_checkpoint
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import Variant
from bhpeft.methods import ARCHITECTURES, LoRA
from bhpeft.models.adapted import AdaptedModel
from bhpeft.posterior import flatten

# <wrappers and stack of layers>.<layer>.<path inside the layer>.lora_A.weight
KEY = re.compile(r"(?P<stack>.+?)\.(?P<layer>\d+)\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class Imported:
    """A LoRA checkpoint in our words.

    Attributes:
        lora: the method that makes room for it.
        weights: by our names: "3.query.lora.a", and "head.weight" and "head.bias" if it has a head
            like ours: one that we exported, or a decoder's `score`.
        base: the base model the checkpoint says it was trained on.
        left_out: tensors of another head, which reads something else than pooled hidden states.
    """

    lora: LoRA
    weights: Mapping[str, Tensor]
    base: str
    left_out: tuple[str, ...]


def import_lora(folder: Path) -> Imported:
    """Read a checkpoint that PEFT's `save_pretrained` or `export_peft` wrote.

    Raises:
        CheckpointError: it cannot be read, is more than a plain LoRA, or sits outside the layers.
    """
    checkpoint = read_checkpoint(folder)
    found, others = _by_place(checkpoint.tensors)
    config = checkpoint.config
    targets = _targets(_named(config), {path for _, path, _ in found})
    everywhere = targets == _named(config) and config.get("layers_to_transform") is None
    lora = LoRA(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        target_modules=targets,
        # Named targets mean every layer; paths, those they were found in.
        layers=None if everywhere else tuple(sorted({layer for layer, _, _ in found})),
    )
    weights = {
        f"{layer}.{_place(path, targets, layer, found)}.lora.{side.lower()}": tensor.float()
        for (layer, path, side), tensor in found.items()
    }
    head, left_out = _head(checkpoint, others)
    return Imported(
        lora, weights | head, str(config.get("base_model_name_or_path") or ""), left_out
    )


def state_from_peft(
    folder: Path,
    spec: Spec,
    variant: Variant,
    texts: Sequence[str] = (),
    model: AdaptedModel | None = None,
    *,
    whole: bool = False,
) -> AdapterState:
    """Return the state before round 0 of a stream that starts from a LoRA checkpoint.

    Args:
        folder: the checkpoint.
        spec: of the stream; its methods' LoRA becomes the checkpoint's, others start as they do.
        variant: which weights are Gaussian, and how wide their first prior and their start are.
        texts: a few rows, to measure keys and values on where there is a prefix beside the LoRA.
        model: built for that spec; made where it is not given. It gets the checkpoint's weights.
        whole: whether it must be all there is to the model, because it is not to be learned on.

    Raises:
        CheckpointError: the checkpoint does not fit the base model or the labels.
        ModelError: the base model cannot be loaded.
    """
    imported = import_lora(folder)
    spec = replace(spec, methods={**spec.methods, "lora": asdict(imported.lora)})
    model = model or build_model(spec)
    if whole:
        _check_whole(model, imported)
    _put(model, imported.weights)
    state = first_state(model, spec, variant, texts, Generator().manual_seed(spec.seed))
    # Known before the first round: the checkpoint's weights, and nothing of those it does not hold.
    centre = {
        name: imported.weights.get(name, torch.zeros(shape))
        for name, shape in state.posterior.shapes.items()
    }
    mean = flatten(centre, state.posterior.shapes)
    return replace(state, prior=replace(state.prior, mean=mean))


def _check_whole(model: AdaptedModel, imported: Imported) -> None:
    missing = [name for name in model.shapes if name not in imported.weights]
    if missing:
        raise CheckpointError(
            "The PEFT checkpoint is not all of the model, so it cannot be a version as it is",
            found=f"nothing for {', '.join(missing[:3])}",
            expected="LoRA's weights and a head that reads pooled hidden states",
            remedy='Say start_as = "prior", and the first round learns the rest.',
        )


@torch.no_grad()
def _put(model: AdaptedModel, weights: Mapping[str, Tensor]) -> None:
    expected = {n: s for n, s in model.shapes.items() if ".lora." in n or n in weights}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if found != expected:
        wrong = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        raise CheckpointError(
            f"The PEFT checkpoint does not fit the base model at {wrong!r}",
            found=f"shape {found[wrong]}" if wrong in found else "nothing",
            expected=f"shape {expected[wrong]}" if wrong in expected else "nothing",
            remedy="Use the base model and the labels it was trained with.",
        )
    for name, tensor in weights.items():
        model.sites[name].tensor.copy_(tensor)


Found = dict[tuple[int, str, str], Tensor]


def _by_place(tensors: Mapping[str, Tensor]) -> tuple[Found, dict[str, Tensor]]:
    """Return LoRA's tensors by layer, path in the layer and side, and all other tensors."""
    stacks = {architecture.layers for architecture in ARCHITECTURES.values()}
    found: Found = {}
    others = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match and any(f".{match['stack']}".endswith(f".{stack}") for stack in stacks):
            found[int(match["layer"]), match["path"], match["side"]] = tensor
        elif ".lora_" in key:
            raise CheckpointError(
                "The PEFT checkpoint adapts a module outside of the model's layers",
                found=key,
                expected=f"modules below one of {', '.join(sorted(stacks))}",
                remedy="Train it with target_modules inside the layers.",
            )
        else:
            others[key] = tensor
    return found, others


def _named(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the checkpoint's target modules; none where it holds a pattern of them."""
    given = config.get("target_modules")
    return tuple(sorted(given)) if isinstance(given, list) else ()


def _targets(named: tuple[str, ...], paths: set[str]) -> tuple[str, ...]:
    """Return the checkpoint's own targets where each path has exactly one; else the paths."""
    hits = {path: [target for target in named if _ends(path, target)] for path in paths}
    exact = all(len(one) == 1 for one in hits.values())
    used = {target for one in hits.values() for target in one}
    if exact and used == set(named):
        return named
    # A path that ends in another one is found by that one too.
    return tuple(sorted(p for p in paths if not any(p.endswith(f".{other}") for other in paths)))


def _place(path: str, targets: tuple[str, ...], layer: int, found: Found) -> str:
    """Return the name LoRA gives a place: its target where that is unique in the layer."""
    target = next(target for target in targets if _ends(path, target))
    same = {other for at, other, _ in found if at == layer and _ends(other, target)}
    return target if len(same) == 1 else path


def _ends(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _head(
    checkpoint: Checkpoint, others: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    if checkpoint.head:
        return {f"head.{leaf}": tensor for leaf, tensor in checkpoint.head.items()}, ()
    strange = [key for key in others if not any(f".{head}." in key for head in HEADS)]
    if strange:
        raise CheckpointError(
            "The PEFT checkpoint holds a tensor that is neither LoRA's nor a head's",
            found=strange[0],
            expected="lora_A, lora_B, " + " or ".join(HEADS),
        )
    score = next((t for key, t in others.items() if key.endswith(".score.weight")), None)
    if score is None:
        return {}, tuple(sorted(others))
    return {"head.weight": score.float(), "head.bias": torch.zeros(len(score))}, ()

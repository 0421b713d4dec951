"""Read and write the folder of a PEFT LoRA checkpoint: one JSON file, one of safetensors.

    adapter_config.json          rank, alpha, targets, and much that has to be off
    adapter_model.safetensors    base_model.model.<path>.lora_A.weight (rank, in) and lora_B
    head.safetensors             ours, beside them: the linear head's weight and bias
    classifier.json              ours: what the head reads and what its rows are called

Source: peft 0.21's `LoraConfig` and `save_and_load.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bhpeft.errors import CheckpointError

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"
HEAD_FILE, CLASSIFIER_FILE = "head.safetensors", "classifier.json"
PREFIX = "base_model.model."

# What changes the function W x + (alpha / rank) B A x, and so has to be off; by peft's names.
UNSUPPORTED = (
    "use_rslora",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "exclude_modules",
    "layer_replication",
    "megatron_config",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
# Starts that leave the base model's own weights alone; PiSSA, OLoRA and others subtract from them.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
HEADS = ("classifier", "score")


@dataclass(frozen=True)
class Checkpoint:
    """A LoRA checkpoint as it is stored.

    Attributes:
        config: what adapter_config.json says.
        tensors: by PEFT's names.
        head: "weight" and "bias" of our head, where one lies beside it.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    head: Mapping[str, Tensor]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a LoRA checkpoint.

    Raises:
        CheckpointError: a file is missing or unreadable, or it is more than a plain LoRA.
    """
    config = _config(folder / CONFIG_FILE)
    check_plain(config)
    if not (folder / TENSOR_FILE).exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder} holds its weights as a pickle, which may run anything when it is read",
            found="adapter_model.bin",
            expected=TENSOR_FILE,
            remedy="Save it again with safe_serialization=True.",
        )
    head = _tensors(folder / HEAD_FILE) if (folder / HEAD_FILE).exists() else {}
    return Checkpoint(config, _tensors(folder / TENSOR_FILE), head)


def write_checkpoint(checkpoint: Checkpoint, classifier: Mapping[str, Any], folder: Path) -> Path:
    """Write a checkpoint, its head and what the head reads into `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_plain(checkpoint.tensors), folder / TENSOR_FILE, metadata={"format": "pt"})
    if checkpoint.head:
        save_file(_plain(checkpoint.head), folder / HEAD_FILE)
    for name, content in ((CONFIG_FILE, checkpoint.config), (CLASSIFIER_FILE, classifier)):
        text = json.dumps(dict(content), indent=2, sort_keys=True)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return folder


def check_plain(config: Mapping[str, Any]) -> None:
    """Refuse what a plain LoRA cannot express.

    Raises:
        CheckpointError: naming the setting.
    """
    wrong = [key for key in UNSUPPORTED if config.get(key)]
    if config.get("peft_type") != "LORA":
        wrong.insert(0, "peft_type")
    if config.get("bias", "none") != "none":
        wrong.append("bias")
    if config.get("init_lora_weights") not in STARTS:
        wrong.append("init_lora_weights")
    if set(config.get("modules_to_save") or ()) - set(HEADS):
        wrong.append("modules_to_save")
    if wrong:
        raise CheckpointError(
            "The PEFT checkpoint is more than a plain LoRA",
            found=", ".join(f"{key} = {json.dumps(config.get(key))}" for key in wrong),
            expected="y = W x + (alpha / rank) B A x, and at most a head in modules_to_save",
            remedy="Merge it into its base model in PEFT, and start from that.",
        )


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as problem:
        raise _unreadable(path, problem) from problem
    if not isinstance(found, dict):
        raise _unreadable(path, ValueError(f"a JSON {type(found).__name__}"))
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as problem:
        raise _unreadable(path, problem) from problem


def _unreadable(path: Path, problem: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path.name} of the PEFT checkpoint cannot be read",
        found=str(problem),
        expected=f"the folder that PEFT's save_pretrained writes, with {CONFIG_FILE} and "
        f"{TENSOR_FILE}",
    )


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

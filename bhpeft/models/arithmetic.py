"""Choose what a frozen base computes in and how it attends, by measuring both on this machine.

bfloat16 halves a step's memory, and is four times faster than float32 where the CPU has matrix
units for it and slower where it has not; which attention wins depends on the same units. So one
layer of this model's sizes runs forward and backward in each way, for a second at most, once a
machine and model: the answer is kept in a file. On CUDA it follows from the device's capability.

Only the base and its activations are concerned. Posterior, KL, head and optimiser are float32 and
metrics float64 whatever is chosen, so a state learned in one arithmetic is used in another.

Source: performance notes, "Training step".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from bhpeft.errors import ConfigError, did_you_mean
from bhpeft.methods.attention import ATTENTIONS, attention_of
from bhpeft.models.measured import kept, key_of

AUTO = "auto"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# bfloat16 has to be worth its rounding, and no choice should hang on a neighbour's noise.
WORTH = 1.2


@dataclass(frozen=True)
class Arithmetic:
    """What the frozen base computes in.

    Attributes:
        dtype: of its weights and activations: "float32", "bfloat16" or "auto", to be measured.
        attention: in training: "sdpa", "explicit" or "auto".
    """

    dtype: str = "float32"
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dtype", self.dtype, (*DTYPES, AUTO)),
            ("attention", self.attention, (*ATTENTIONS, AUTO)),
        ):
            if value not in known:
                raise ConfigError(
                    f"There is no {name} {value!r}",
                    expected=f"one of {', '.join(known)}",
                    remedy=did_you_mean(value, known),
                )

    @property
    def torch_dtype(self) -> torch.dtype:
        """Return the dtype; float32 as long as nothing was measured."""
        return DTYPES.get(self.dtype, torch.float32)

    @property
    def settled(self) -> bool:
        """Say whether nothing is left to be measured."""
        return AUTO not in (self.dtype, self.attention)


PLAIN, MEASURED = Arithmetic(), Arithmetic(AUTO, AUTO)


def settle(
    wanted: Arithmetic,
    config: PreTrainedConfig,
    fingerprint: str,
    device: torch.device,
    folder: Path | None = None,
) -> Arithmetic:
    """Return `wanted` with every "auto" replaced by what is fastest here.

    Args:
        wanted: what is said outright stays.
        config: of the base model.
        fingerprint: of the base model.
        device: where it will compute.
        folder: where measurements are kept; `cache_folder()` by default.
    """
    if wanted.settled:
        return wanted
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return _filled(wanted, Arithmetic("bfloat16" if native else "float32", "sdpa"))

    def measure() -> Arithmetic:
        from bhpeft.models.trial_step import step_seconds

        return fastest(step_seconds(config, candidates(wanted)))

    key = key_of(wanted.dtype, wanted.attention, fingerprint, device)
    return kept(key, Arithmetic, measure, folder)


def in_words(model: PreTrainedModel) -> dict[str, str]:
    """Return what a model computes in, as it is put on a round's run."""
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": attention_of(model),
    }


def candidates(wanted: Arithmetic) -> list[Arithmetic]:
    """Return what agrees with `wanted`, the plainest first."""
    return [
        Arithmetic(dtype, attention)
        for dtype in DTYPES
        for attention in ("sdpa", "explicit")
        if wanted.dtype in (dtype, AUTO) and wanted.attention in (attention, AUTO)
    ]


def fastest(times: dict[Arithmetic, float]) -> Arithmetic:
    """Return the first arithmetic, or one that is faster by a factor of `WORTH` at least."""
    first, *others = times
    best = min(times, key=lambda one: times[one])
    return best if others and times[best] * WORTH < times[first] else first


def _filled(wanted: Arithmetic, found: Arithmetic) -> Arithmetic:
    return Arithmetic(
        found.dtype if wanted.dtype == AUTO else wanted.dtype,
        found.attention if wanted.attention == AUTO else wanted.attention,
    )

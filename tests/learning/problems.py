"""Small learning problems on tiny models: texts of known words, labelled by one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bhpeft.learning.build import first_state
from bhpeft.learning.fit import Lesson
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import AdapterState, Spec
from bhpeft.learning.variants import BH_PEFT, Variant
from bhpeft.methods import method
from bhpeft.models.adapted import AdaptedModel
from bhpeft.models.tokens import TokenTable
from bhpeft.posterior import MeanField
from tests import tiny

SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2},
    "adapter": {"bottleneck": 3},
    "prefix": {"length": 2},
    "prompt": {"length": 2},
    "bitfit": {},
    "houlsby": {"bottleneck": 3},
}
WORDS = tuple(f"w{number}" for number in range(4, tiny.VOCAB))


def texts(rows: int, seed: int = 0) -> list[str]:
    """Return `rows` texts of 2 to 9 words."""
    source = tiny.generator(seed)
    lengths = torch.randint(2, 10, (rows,), generator=source).tolist()
    picks = (torch.randint(len(WORDS), (length,), generator=source).tolist() for length in lengths)
    return [" ".join(WORDS[pick] for pick in pick_list) for pick_list in picks]


def labels(rows: Sequence[str]) -> list[int]:
    """Return 1 where a text's first word is in the second half of the vocabulary, else 0."""
    return [int(WORDS.index(row.split()[0]) >= len(WORDS) // 2) for row in rows]


def table(folder: Path, rows: int = 24, seed: int = 0) -> TokenTable:
    """Return a token table of `rows` labelled texts."""
    written = texts(rows, seed)
    chunk = (written, labels(written), list(range(rows)))
    return TokenTable.build([chunk], tiny.tokenizer(), 16, folder, content=f"{rows}/{seed}")


def spec(methods: Sequence[str] = ("lora",), variant: Variant = BH_PEFT, **changes: Any) -> Spec:
    """Return the spec of a problem with two classes."""
    asked = Spec(
        base="tiny-bert",
        revision="",
        fingerprint="",
        layers=None,
        task="classification",
        labels=("no", "yes"),
        pooling="",
        max_length=16,
        methods={name: SETTINGS[name] for name in methods},
        variant=variant.name,
        scale=variant.scale,
        dropout=dict(variant.dropout),
        kl_weight=variant.kl_weight,
        forgetting=1.0,
        gauge="",
        draws=4,
        seed=3,
        abstain_above=0.6,
    )
    return replace(asked, **changes)


def model(methods: Sequence[str] = ("lora",), family: str = "bert", seed: int = 3) -> AdaptedModel:
    """Return a tiny base with methods and a head for two classes."""
    made = [method(name, SETTINGS[name]) for name in methods]
    return AdaptedModel(tiny.base(family), made, 2, generator=tiny.generator(seed))


def start(
    adapted: AdaptedModel,
    methods: Sequence[str] = ("lora",),
    variant: Variant = BH_PEFT,
    seed: int = 0,
) -> AdapterState:
    """Return the state that round 0 starts from."""
    return first_state(adapted, spec(methods, variant), variant, texts(6), tiny.generator(seed))


def later(state: AdapterState, seed: int = 5) -> AdapterState:
    """Return a state as a round leaves it: nothing at zero, and a precision on every point."""
    source = tiny.generator(seed)

    def stirred(tensor: Tensor) -> Tensor:
        return tensor + 0.1 * torch.randn(tensor.shape, generator=source)

    q = state.posterior
    return replace(
        state,
        posterior=MeanField(stirred(q.mean), stirred(q.rho), q.shapes, q.scale),
        point={name: stirred(value) for name, value in state.point.items()},
        precision={
            name: torch.rand(value.shape, generator=source) + 0.5
            for name, value in state.precision.items()
        },
    )


def lesson(
    folder: Path,
    methods: Sequence[str] = ("lora",),
    *,
    family: str = "bert",
    variant: Variant = BH_PEFT,
    state: AdapterState | None = None,
    rows: int = 24,
    first: bool = True,
    forgetting: float = 1.0,
    **plan: Any,
) -> Lesson:
    """Return a round's learning problem; without `state` it starts from round 0's."""
    adapted = model(methods, family)
    begun = state or start(adapted, methods, variant)
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2, "rho_learning_rate": 1.0}
    return Lesson(
        model=adapted,
        start=begun,
        prior=begun.prior if first else begun.posterior,
        rows=table(folder, rows),
        plan=Plan(**{**settings, **plan}),
        variant=variant,
        first=first,
        forgetting=forgetting,
    )

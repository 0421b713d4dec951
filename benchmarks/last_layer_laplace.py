"""Compare structures of the last layer's Laplace: diagonal, as `laplace` keeps it, Kronecker, full.

    python -m benchmarks.last_layer_laplace

MiniLM is frozen and its mean-pooled hidden states are the features, so that only the last layer is
learned: to its mode under N(0, 1), by LBFGS, as `map` would learn it in many epochs. The diagonal
is the house's own (`bhpeft.learning.finishes.head_curvature`), the other two are laplace-torch's,
at the same mode and prior; each predicts with the same number of draws of its Gaussian. Prints mean
and range over seeds, which choose the training rows; the rows judged by are the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from laplace import Laplace
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.budget import Skipped
from benchmarks.peers.problem import MINILM
from benchmarks.texts import labelled, opinions
from bhpeft.learning.finishes import head_curvature
from bhpeft.models.load import LoadedBase, load_base
from bhpeft.models.pooling import mean_pooled
from bhpeft.tasks.metrics import accuracy, ece, nll

SEEDS, ROWS, JUDGED, DRAWS, TOKENS = 3, 500, 600, 100, 48
# Each seed picks its training rows among these.
POOL = 900
WAYS = ("mode", "diagonal", "kron", "full")


@dataclass(frozen=True)
class Rows:
    """Features (N, d) and classes (N,)."""

    features: Tensor
    classes: Tensor


def main() -> None:
    """Print a table for each corpus that is here."""
    base = load_base(MINILM)
    for name in ("movie", "trec6"):
        try:
            rows = encoded(base, corpus(name))
        except Skipped as absent:
            print(f"{name}: skipped, {absent}")
            continue
        found = pd.DataFrame(measured(rows))
        print(f"\n{name}: {ROWS} training rows, {JUDGED} others, {SEEDS} seeds, {DRAWS} draws")
        table = found.groupby("way", sort=False)[["accuracy", "nll", "ece"]]
        print(table.agg(["mean", "min", "max"]).round(3).to_string())


def corpus(name: str) -> pd.DataFrame:
    """Return texts and labels of a corpus, of the demo's or of `$BHPEFT_DATA`."""
    found = opinions() if name == "movie" else labelled(name)
    if name == "movie":
        found = found[found["domain"] == name]
    return found.head(JUDGED + POOL)


@torch.no_grad()
def encoded(base: LoadedBase, frame: pd.DataFrame) -> Rows:
    """Return what the frozen base makes of the texts."""
    texts = frame["text"].astype(str).to_numpy()
    made = torch.empty(len(texts), base.model.config.hidden_size)
    # Rows of about one length are read together, so that there is little padding.
    for rows in np.array_split(np.argsort([len(text) for text in texts]), -(-len(texts) // 32)):
        read = base.tokenizer(
            texts[rows].tolist(),
            padding=True,
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        )
        made[rows] = mean_pooled(base.model(**read).last_hidden_state, read["attention_mask"])
    _, classes = np.unique(frame["label"].astype(str), return_inverse=True)
    return Rows(made, torch.from_numpy(classes))


def measured(rows: Rows) -> Iterator[dict[str, Any]]:
    """Yield a line for each seed and way."""
    judged, others = slice(0, JUDGED), range(JUDGED, len(rows.classes))
    for seed in range(SEEDS):
        source = Generator().manual_seed(seed)
        picked = torch.tensor(others)[torch.randperm(len(others), generator=source)[:ROWS]]
        train = Rows(rows.features[picked], rows.classes[picked])
        head = mode(train, int(rows.classes.max()) + 1)
        for way in WAYS:
            probabilities = predicted(way, head, train, rows.features[judged], source)
            labels = rows.classes[judged].numpy()
            figures = {"accuracy": accuracy, "nll": nll, "ece": ece}
            yield {"way": way, "seed": seed} | {
                name: figure(probabilities, labels) for name, figure in figures.items()
            }


def mode(train: Rows, classes: int) -> nn.Linear:
    """Return the head of the highest posterior density under N(0, 1)."""
    head = nn.Linear(train.features.shape[1], classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    descent = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        fit = nn.functional.cross_entropy(head(train.features), train.classes, reduction="sum")
        found = fit + sum(0.5 * weight.square().sum() for weight in head.parameters())
        found.backward()
        return found

    descent.step(loss)  # type: ignore[arg-type]
    return head


def predicted(
    way: str, head: nn.Linear, train: Rows, features: Tensor, source: Generator
) -> np.ndarray:
    """Return the averaged probabilities (N, C) of one way."""
    with torch.no_grad():
        if way == "mode":
            return head(features).double().softmax(-1).numpy()
        if way == "diagonal":
            return _diagonal(head, train, features, source)
    loader = DataLoader(TensorDataset(train.features, train.classes), batch_size=len(train.classes))
    found = Laplace(
        head, "classification", subset_of_weights="all", hessian_structure=way, prior_precision=1.0
    )
    found.fit(loader)
    drawn = found.predictive_samples(features, pred_type="nn", n_samples=DRAWS, generator=source)
    return np.asarray(drawn.double().mean(0).detach().numpy())


def _diagonal(head: nn.Linear, train: Rows, features: Tensor, source: Generator) -> np.ndarray:
    weight, bias = head_curvature(train.features, head(train.features).softmax(-1))
    total = torch.zeros(len(features), len(bias), dtype=torch.float64)
    for _ in range(DRAWS):
        drawn = [
            mean + (1 + len(train.classes) * curvature).rsqrt() * _noise(mean, source)
            for mean, curvature in ((head.weight, weight), (head.bias, bias))
        ]
        total += nn.functional.linear(features, *drawn).double().softmax(-1)
    return (total / DRAWS).numpy()


def _noise(like: Tensor, source: Generator) -> Tensor:
    return torch.randn(like.shape, generator=source)


if __name__ == "__main__":
    main()

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhpeft.data.split import side_of
from bhpeft.errors import StateError
from bhpeft.rounds.memory import BATCH, Memory, kept
from tests.rounds.conftest import Chain

TEXTS = [
    "plain",
    "naïve 日本語 🙂",
    'a "quote"\nand a line',
    "1",
    "2020-01-01",
    "null",
    "</script>",
]


def memory(texts: list[str] = TEXTS) -> Memory:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            BATCH: ["b1" if i % 2 else "2026-01-07" for i in range(len(texts))],
            "text": texts,
            "label": [("1", "0", "true")[i % 3] for i in range(len(texts))],
            "year": [2020 + i for i in range(len(texts))],
        }
    )
    probabilities = random.dirichlet([1.0, 1.0, 1.0], size=(4, len(texts)))
    return Memory(rows, probabilities, random.random((len(texts), 5), dtype=np.float32))


def test_a_memory_comes_back_as_it_was(tmp_path: Path) -> None:
    """Labels and batch ids that look like numbers or dates stay the texts they are."""
    before = memory()
    before.save(tmp_path)
    after = Memory.load(tmp_path)
    assert after.rows.to_dict("list") == before.rows.to_dict("list")
    assert (after.probabilities == before.probabilities).all()
    assert (after.embeddings == before.embeddings).all()
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_an_empty_memory_comes_back_empty(tmp_path: Path) -> None:
    memory([]).save(tmp_path)
    after = Memory.load(tmp_path)
    assert list(after.rows.columns) == [BATCH, "text", "label", "year"]
    assert len(after.rows) == 0
    assert list(after.sets) == []


def test_each_batch_is_a_regression_set_of_its_own_oldest_first() -> None:
    found = {name: at.tolist() for name, at in memory().sets}
    assert found == {"2026-01-07": [0, 2, 4, 6], "b1": [1, 3, 5]}
    assert next(iter(found)) == "2026-01-07"


@pytest.mark.parametrize("name", ["memory.json", "memory.safetensors"])
@pytest.mark.parametrize("harm", ["missing", "truncated", "wrong"])
def test_a_memory_that_is_not_whole_is_a_named_error(tmp_path: Path, name: str, harm: str) -> None:
    memory().save(tmp_path)
    path = tmp_path / name
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.write_text("{}")
    with pytest.raises(StateError, match="hold-out rows"):
        Memory.load(tmp_path)


def test_rows_and_scores_of_different_lengths_are_a_named_error(tmp_path: Path) -> None:
    memory().save(tmp_path)
    memory(TEXTS[:5]).rows.to_json(tmp_path / "memory.json", orient="split", index=False)
    with pytest.raises(StateError, match="found 5 rows and 7 scores"):
        Memory.load(tmp_path)


@pytest.mark.parametrize(
    ("ids", "most", "stays"),
    [
        ("abc", 5, "abc"),
        ("abcde", 5, "abcde"),
        ("abcdef", 5, "acdef"),
        ("abcdefgh", 3, "agh"),
        ("abc", 1, "a"),
        ("", 5, ""),
    ],
)
def test_the_first_batch_and_the_latest_stay(ids: str, most: int, stays: str) -> None:
    """What the chain began with must not be forgotten, nor what it learned last."""
    assert kept(list(ids), most) == list(stays)


def test_a_round_costs_the_same_however_long_the_chain(chain: Chain) -> None:
    """Rows a batch and batches are bounded; a batch called "holdout" is one like any other."""
    data = chain.stream.data.model_copy(update={"memory_rows": 7, "memory_batches": 2})
    chain = chain.changed(data=data)
    for day, name in enumerate(["holdout", "b2", "b3"]):
        last = chain.learn(chain.deliver(name, day=day))
    rows = chain.memory(3).rows
    assert rows[BATCH].value_counts(sort=False).to_dict() == {"holdout": 7, "b3": 7}
    assert {"regression/holdout/accuracy", "regression/b2/accuracy"} <= last.metrics.keys()
    assert len(chain.memory(3).probabilities[0]) == 14


def test_the_rows_kept_are_hold_out_rows_from_the_whole_of_a_sorted_batch(chain: Chain) -> None:
    """The first few of a batch sorted by label would be of one label, and look like drift."""
    labels = ["bad"] * 60 + ["good"] * 60
    chain.learn(chain.deliver("b1", label=labels))
    rows = chain.memory(1).rows
    assert len(rows) == chain.stream.data.memory_rows
    assert set(side_of(rows["text"].tolist())) == {"holdout"}
    counts = rows["label"].value_counts()
    assert counts.min() > 0.3 * len(rows)


def test_a_stream_that_keeps_no_rows_still_learns(chain: Chain) -> None:
    """No regression sets and no drift reference, and no crash for it."""
    data = chain.stream.data.model_copy(update={"memory_rows": 0})
    chain = chain.changed(data=data)
    chain.learn(chain.deliver("b1", day=1))
    second = chain.learn(chain.deliver("b2", day=2))
    assert (second.decision, second.prior_version) == ("promoted", 1)
    assert len(chain.memory(2).rows) == 0

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bhpeft.errors import FitError
from bhpeft.rounds.soundness import set_unreadable_aside
from tests.rounds.conftest import Chain, Steps


def record_of(chain: Chain) -> tuple[Path, dict[str, object]]:
    (folder,) = chain.stream.quarantine.iterdir()
    return folder, json.loads((folder / "record.json").read_text(encoding="utf-8"))


def test_a_malformed_batch_is_quarantined_with_rows_and_reasons_and_nothing_is_trained(
    chain: Chain,
) -> None:
    """The champion stays, the batch no longer waits, and MLflow has it on record."""
    chain.learn(chain.deliver("b1", day=1))
    before, runs = chain.book, len(chain.runs)
    label = np.where(np.arange(120) < 3, "terrific", "good")
    batch = chain.deliver("b2", day=2, validate=False, label=label)
    assert chain.waiting == ["b2"]
    outcome = chain.learn(batch, Steps(stop="prepare"))
    assert (outcome.decision, outcome.version, outcome.prior_version) == ("quarantined", None, 1)
    assert "label" in outcome.reason
    assert "terrific" in outcome.reason
    assert chain.book == before
    assert chain.waiting == []
    folder, record = record_of(chain)
    assert record["error"] == "ContractViolation"
    assert pq.read_table(folder / "rows.parquet")["label"].to_pylist() == ["terrific"] * 3
    assert len(chain.runs) == runs + 1
    assert chain.runs[0].data.tags["bhpeft.decision"] == "quarantined"


def test_a_batch_whose_checksum_is_wrong_is_quarantined(chain: Chain) -> None:
    """One flipped bit, of the right size: what was landed is not what lies there."""
    batch = chain.deliver("b1")
    part = batch.paths[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    outcome = chain.learn(batch, Steps(stop="prepare"))
    assert outcome.decision == "quarantined"
    assert "SHA-256" in outcome.reason
    assert record_of(chain)[1]["error"] == "BatchCorrupt"
    assert (chain.waiting, chain.versions) == ([], [])


def test_a_batch_whose_manifest_cannot_be_read_is_set_aside_and_hides_no_other(
    chain: Chain,
) -> None:
    chain.deliver("b1", day=1)
    broken = chain.deliver("b2", day=2)
    (broken.folder / "_manifest.json").write_text("{", encoding="utf-8")
    assert set_unreadable_aside(chain.stream, chain.registry) == ["b2"]
    assert set_unreadable_aside(chain.stream, chain.registry) == []
    assert chain.waiting == ["b1"]


def test_a_batch_too_small_to_hold_anything_out_is_held_for_a_person(chain: Chain) -> None:
    """Nothing is known about a candidate without hold-out rows: not good, and no crash."""
    everything = chain.changed(
        gates={}, data=chain.stream.data.model_copy(update={"holdout": 1e-9, "selection": 0.0})
    )
    outcome = everything.learn(everything.deliver("b1"), Steps(figures=True))
    assert outcome.decision == "held"
    assert outcome.metrics["holdout/rows"] == 0
    assert chain.champion is None
    assert chain.waiting == []


def test_a_batch_without_training_rows_stays_pending_and_is_named(chain: Chain) -> None:
    nothing = chain.changed(
        data=chain.stream.data.model_copy(update={"holdout": 1 - 1e-9, "selection": 0.0})
    )
    batch = nothing.deliver("b1")
    with pytest.raises(FitError, match="no training rows"):
        nothing.learn(batch)
    assert (chain.waiting, chain.versions) == (["b1"], [])


def test_texts_of_every_kind_pass_through_a_whole_round_and_its_memory(chain: Chain) -> None:
    """Long, foreign, quoted, of one letter: row hash, tokens and files take them."""
    strange = ['"quoted", a,b\n', "naïve 日本語 🙂", "x", "<b>html</b>", "null", "3.5", "{}"]
    strange += ["word " * 5000, "tab\there", "back\\slash", "a\u0000zero", "2020-01-01"]
    texts = [f"{strange[i % 12]}" + " " * (i // 12) + f" {i}" * (i > 11) for i in range(120)]
    outcome = chain.learn(chain.deliver("b1", text=texts))
    assert outcome.decision == "promoted"
    kept = set(chain.memory(1).rows["text"])
    assert kept
    assert kept <= set(texts)

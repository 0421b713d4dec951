"""What one machine puts in quarantine is in quarantine on all of them; homes share the registry."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bhpeft.data.check import check
from bhpeft.data.quarantine import quarantine
from bhpeft.errors import ContractViolation
from bhpeft.registry import glanced, read_all
from bhpeft.rounds.overview import overview
from bhpeft.rounds.release import Aside, release
from bhpeft.rounds.soundness import set_unreadable_aside
from bhpeft.stream import Tracking
from tests.rounds.conftest import Chain, Steps


@pytest.fixture
def here(chain: Chain) -> Chain:
    """A stream whose file names the registry, as those of a fleet do."""
    uri = chain.registry.connection.uri
    return chain.changed(tracking=Tracking(uri=uri))


@pytest.fixture
def elsewhere(here: Chain, tmp_path: Path) -> Chain:
    """The same stream in another machine's home, which sees the landing folder and MLflow."""
    home = tmp_path / "elsewhere"
    home.mkdir()
    shutil.copy(here.stream.contract, home)
    data = here.stream.data.model_copy(update={"landing": str(here.stream.landing)})
    return replace(here, stream=here.stream.model_copy(update={"home": home, "data": data}))


def aside(chain: Chain) -> list[Aside]:
    [glance] = overview([chain.stream])
    return glance.aside


def test_every_machine_sees_what_one_has_found_malformed(here: Chain, elsewhere: Chain) -> None:
    """It waits nowhere, both say why, and the rows are where any reviewer gets at them."""
    bad = here.deliver("b1", validate=False, label=["terrific"] * 2 + ["good"] * 118)
    assert elsewhere.waiting == ["b1"]
    assert here.learn(bad, Steps(stop="prepare")).decision == "quarantined"

    assert elsewhere.waiting == []
    assert not elsewhere.stream.quarantine.exists()
    [seen] = aside(elsewhere)
    assert [seen] == aside(here)
    assert (seen.batch_id, seen.digest, seen.state) == ("b1", bad.digest, "quarantined")
    assert "label" in seen.why
    run, client = here.runs[0].info.run_id, here.registry.connection.client
    rows = client.download_artifacts(run, "rows.parquet", str(elsewhere.desk))
    assert pq.read_table(rows)["label"].to_pylist() == ["terrific"] * 2


def test_a_batch_is_let_out_from_any_machine_for_all(here: Chain, elsewhere: Chain) -> None:
    """The one that made the record need not be there; what is still wrong is found again."""
    bad = here.deliver("b1", validate=False, label="neither")
    assert here.learn(bad).decision == "quarantined"
    was = release(elsewhere.stream, "b1", here.registry, by="anna", reason="new contract")
    assert (was.state, here.waiting, elsewhere.waiting) == ("quarantined", ["b1"], ["b1"])
    assert elsewhere.learn(bad).decision == "quarantined"
    assert here.waiting == []
    assert len(list(elsewhere.stream.quarantine.iterdir())) == 1


def test_a_folder_nobody_can_read_is_told_once_on_a_fleet(here: Chain, elsewhere: Chain) -> None:
    """Also while it changes: it is the same folder."""
    broken = here.deliver("b1")
    manifest = broken.folder / "_manifest.json"
    manifest.write_text("{", encoding="utf-8")
    assert set_unreadable_aside(here.stream, here.registry) == ["b1"]
    manifest.write_text("{{", encoding="utf-8")
    assert set_unreadable_aside(elsewhere.stream, here.registry) == []
    [failure] = here.registry.book(here.stream.name).quarantined.values()
    assert (failure.batch_id, failure.kind) == ("b1", "Quarantined")


def test_a_crash_before_mlflow_knows_leaves_the_batch_pending(here: Chain) -> None:
    """The record on this machine decides nothing: the next round makes the same one."""
    bad = here.deliver("b1", validate=False, label="neither")
    with pytest.raises(ContractViolation) as caught:
        check(bad, here.contract)
    record = quarantine(bad, caught.value, here.stream.quarantine)
    before = json.loads((record / "record.json").read_text(encoding="utf-8"))
    assert here.waiting == ["b1"]
    assert here.learn(bad).decision == "quarantined"
    assert here.waiting == []
    assert [record] == list(here.stream.quarantine.iterdir())
    assert json.loads((record / "record.json").read_text(encoding="utf-8")) == before


def test_a_quarantined_batch_is_not_counted_as_a_failed_round(here: Chain) -> None:
    """Nobody parks it: three looks at a malformed batch are no three failures."""
    bad = here.deliver("b1", validate=False, label="neither")
    for _ in range(3):
        assert here.learn(bad).decision == "quarantined"
    [seen] = aside(here)
    assert seen.state == "quarantined"
    release(here.stream, "b1", here.registry, by="anna", reason="new contract")
    assert here.waiting == ["b1"]


def test_both_ways_of_reading_know_what_is_in_quarantine(here: Chain) -> None:
    """A glance reads the database itself; MLflow's client must tell it the same."""
    assert here.learn(here.deliver("b1", validate=False, label="neither")).decision
    name = here.stream.name
    straight, through = glanced(here.registry, [])[name], read_all(here.registry)[name]
    assert straight.quarantined == through.quarantined
    assert len(through.quarantined) == 1

"""Rounds whose batches lie in a bucket or a table: the same rounds, and blame where it belongs."""

from __future__ import annotations

import shutil
from pathlib import Path

import boto3
import pytest
from deltalake import write_deltalake

from bhpeft.data import object_store
from bhpeft.data.land import land
from bhpeft.errors import LandingUnreachable
from bhpeft.rounds import landing_of, learn, pending
from bhpeft.rounds.backlog import settled
from bhpeft.rounds.rebuild import replay
from bhpeft.rounds.soundness import set_unreadable_aside
from tests.rounds.conftest import BEGAN, Chain, Steps
from tests.rounds.reviews import reviews


@pytest.fixture
def remote(chain: Chain, bucket: str) -> Chain:
    data = chain.stream.data.model_copy(update={"landing": f"s3://{bucket}/landing"})
    return chain.changed(data=data)


def deliver(remote: Chain, batch_id: str) -> None:
    source = remote.desk / f"{batch_id}.parquet"
    reviews(batch_id).to_parquet(source, index=False)
    land(source, landing_of(remote.stream), remote.contract, remote.stream.name, batch_id, BEGAN)


def test_a_round_learns_from_a_bucket_and_a_changed_object_is_quarantined(
    remote: Chain, bucket: str
) -> None:
    for batch_id in ("b1", "b2"):
        deliver(remote, batch_id)
    client = boto3.client("s3", endpoint_url=object_store.endpoint())
    name = remote.stream.name
    client.put_object(Bucket=bucket, Key=f"landing/{name}/b0/_manifest.json", Body=b"no")
    assert set_unreadable_aside(remote.stream, remote.registry) == ["b0"]
    assert set_unreadable_aside(remote.stream, remote.registry) == []
    assert remote.waiting == ["b1", "b2"]
    first, second = landing_of(remote.stream).landed(settled(remote.stream, remote.registry))
    assert remote.learn(first).decision == "promoted"
    assert remote.waiting == ["b2"]
    key = f"landing/{name}/b2/{second.manifest.files[0].name}"
    client.put_object(Bucket=bucket, Key=key, Body=b"x" * second.manifest.files[0].size)
    outcome = remote.learn(second)
    assert (outcome.decision, remote.waiting) == ("quarantined", [])
    assert "SHA-256" in outcome.reason
    assert remote.champion is not None
    assert remote.champion.batch_ids == ("b1",)


def test_a_store_that_is_down_blames_no_batch(
    remote: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round ends by name, nothing is quarantined, and the batch waits for the store."""
    deliver(remote, "b1")
    [batch] = landing_of(remote.stream).landed({})
    with monkeypatch.context() as outage:
        outage.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(LandingUnreachable):
            remote.learn(batch)
    assert remote.waiting == ["b1"]
    assert not remote.stream.quarantine.exists()


def test_a_chain_learns_what_is_appended_to_a_table_and_a_rollback_moves_its_cursor(
    chain: Chain, tmp_path: Path
) -> None:
    table = tmp_path / "reviews-table"
    data = chain.stream.data.model_copy(update={"delta": str(table)})
    chain = chain.changed(data=data)
    for batch_id in ("b1", "b2"):
        write_deltalake(table, reviews(batch_id), mode="append")
        [batch] = landing_of(chain.stream).landed(settled(chain.stream, chain.registry))
        assert chain.learn(batch).decision == "promoted"
        assert chain.waiting == []
    assert chain.champion is not None
    assert chain.champion.batch_ids == ("v1-v1",)
    chain.roll_back(1, learned_since="pending")
    assert chain.waiting == ["v1-v1"]


def test_a_table_is_replayed_without_a_bad_batch(chain: Chain, tmp_path: Path) -> None:
    """Its rows are cut as before: the good version stays, the later ones are learned again."""
    table = tmp_path / "reviews-table"
    chain = chain.changed(data=chain.stream.data.model_copy(update={"delta": str(table)}))
    for batch_id in ("b1", "b2", "b3", "b4"):
        write_deltalake(table, reviews(batch_id), mode="append")
        [batch] = landing_of(chain.stream).landed(settled(chain.stream, chain.registry))
        chain.learn(batch)
    before = {v.number: v.batch_ids for v in chain.versions}

    outcomes = replay(
        chain.stream,
        chain.registry,
        without=["v1-v1"],
        learn=lambda *args, **kwargs: learn(*args, run=Steps(), **kwargs),
        by="anna",
        reason="v1-v1 had wrong labels",
    )

    assert [(one.batch_id, one.decision) for one in outcomes] == [
        ("v2-v2", "promoted"),
        ("v3-v3", "promoted"),
    ]
    assert chain.champion is not None
    assert (chain.champion.number, chain.champion.parent) == (6, 5)
    assert chain.waiting == []
    assert {v.number: v.batch_ids for v in chain.versions if v.number < 5} == before
    learned = chain.registry.learned(chain.stream.name, 6)
    digests = {v.batch_ids[0]: set(v.batches) for v in chain.versions if v.number < 5}
    assert set(learned) == digests["v0-v0"] | digests["v2-v2"] | digests["v3-v3"]


def test_a_replay_on_another_machine_cuts_a_table_as_it_was_learned(
    chain: Chain, tmp_path: Path
) -> None:
    """Its home has never seen the table, and three commits would fit into one batch of its own."""
    table, home = tmp_path / "reviews-table", tmp_path / "elsewhere"
    chain = chain.changed(data=chain.stream.data.model_copy(update={"delta": str(table)}))
    for batch_id in ("b1", "b2", "b3", "b4"):
        write_deltalake(table, reviews(batch_id), mode="append")
        [batch] = landing_of(chain.stream).landed(settled(chain.stream, chain.registry))
        chain.learn(batch)
    home.mkdir()
    shutil.copy(chain.stream.contract, home)
    elsewhere = chain.changed(home=home)
    book = chain.registry.book(chain.stream.name)
    [unaware] = landing_of(elsewhere.stream).landed({v.batches[0]: v.batch_ids[0]
                                                     for v in book.versions.values()
                                                     if v.number == 1})  # fmt: skip
    assert unaware.batch_id == "v1-v3"

    outcomes = replay(
        elsewhere.stream,
        chain.registry,
        without=["v1-v1"],
        learn=lambda *args, **kwargs: learn(*args, run=Steps(), **kwargs),
        by="anna",
        reason="v1-v1 had wrong labels",
    )

    assert [one.batch_id for one in outcomes] == ["v2-v2", "v3-v3"]
    assert elsewhere.waiting == chain.waiting == []


def test_a_batch_of_a_table_that_failed_on_one_machine_is_the_same_on_the_next(
    chain: Chain, tmp_path: Path
) -> None:
    """Else its failures would never add up, and nobody would be asked to look."""
    table, home = tmp_path / "reviews-table", tmp_path / "elsewhere"
    chain = chain.changed(data=chain.stream.data.model_copy(update={"delta": str(table)}))
    write_deltalake(table, reviews("b1"), mode="append")
    [batch] = pending(chain.stream, chain.registry)
    with pytest.raises(RuntimeError, match="died"):
        chain.learn(batch, Steps(stop="prepare"))
    write_deltalake(table, reviews("b2"), mode="append")
    home.mkdir()
    shutil.copy(chain.stream.contract, home)
    assert chain.changed(home=home).waiting == ["v0-v0", "v1-v1"]

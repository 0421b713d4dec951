from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from bhpeft.data import arrival, object_store
from bhpeft.data.batch import MANIFEST, Batch
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.data.land import land
from bhpeft.data.landing_bucket import Bucket
from bhpeft.data.landings import Place, landing_at
from bhpeft.data.rows import read_rows
from bhpeft.errors import BatchCorrupt, BatchError, LandingError, LandingUnreachable
from tests.data.tickets import tickets

Writer = Callable[..., Batch]


@pytest.fixture
def place(bucket: str, tmp_path: Path) -> Bucket:
    found = landing_at(Place(f"s3://{bucket}/landing", "tickets", tmp_path / "cache"))
    assert isinstance(found, Bucket)
    return found


@pytest.fixture
def put(place: Bucket, contract: Contract, tmp_path: Path) -> Writer:
    """Land a table of its own for each id."""

    def write(batch_id: str, day: int = 0, words: str = "", at: Bucket = place) -> Batch:
        source = tmp_path / f"{words or batch_id}.parquet"
        if not source.exists():
            pq.write_table(tickets(text=[f"{words or batch_id} {i}" for i in range(12)]), source)
        when = datetime.now(UTC) - timedelta(hours=48 - 12 * day)
        return land(source, at, contract, "tickets", batch_id, when, validate=False)

    return write


class Objects:
    """What a producer or an accident does to the bucket without us."""

    def __init__(self, place: Bucket):
        self.client = boto3.client("s3", endpoint_url=object_store.endpoint())
        self.bucket, _, self.prefix = place.path.partition("/")

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix)
        return [item["Key"].removeprefix(f"{self.prefix}/") for item in found.get("Contents", [])]

    def read(self, name: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")[
            "Body"
        ].read()

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def move(self, name: str, to: str) -> None:
        self.write(to, self.read(name))
        self.delete(name)


@pytest.fixture
def objects(place: Bucket) -> Objects:
    return Objects(place)


def ids(place: Bucket, **settled: str) -> list[str]:
    return [batch.batch_id for batch in place.landed(settled)]


def test_what_is_landed_in_a_bucket_is_staged_and_read_back_row_for_row(
    place: Bucket, put: Writer, contract: Contract
) -> None:
    assert place.landed({}) == []
    assert place.newest() is None
    landed = put("b1")
    [batch] = place.landed({})
    assert batch == landed
    assert not batch.folder.exists()
    here = place.staged(batch, contract)
    check(here, contract)
    rows = [row["text"] for chunk in read_rows(here, contract) for row in chunk.to_pylist()]
    assert rows == [f"b1 {i}" for i in range(12)]
    assert (here.digest, here.address) == (batch.digest, f"s3://{place.path}/b1")
    assert place.newest() == batch.manifest.landed_at


def test_a_staged_batch_is_fetched_once_and_mended_if_this_machine_lost_part_of_it(
    place: Bucket, put: Writer, contract: Contract, objects: Objects
) -> None:
    put("b1")
    [batch] = place.landed({})
    here = place.staged(batch, contract)
    whole = here.paths[0].read_bytes()
    here.paths[0].write_bytes(whole[:50])
    assert place.staged(batch, contract).paths[0].read_bytes() == whole
    for name in objects.names():
        objects.delete(name)
    assert place.staged(batch, contract) == here


def test_a_part_without_its_manifest_is_no_batch_and_bars_nobody(
    place: Bucket, put: Writer, objects: Objects
) -> None:
    """A producer that died half-way has delivered nothing; its parts are never read."""
    put("b1")
    manifest = objects.read(f"b1/{MANIFEST}")
    objects.delete(f"b1/{MANIFEST}")
    assert (ids(place), place.unreadable()) == ([], [])
    objects.write("b1/part-left-over.parquet", b"half")
    objects.write(f"b1/{MANIFEST}", manifest)
    assert ids(place) == ["b1"]


def test_a_manifest_waits_for_its_files_and_after_an_hour_is_told_apart_from_a_late_one(
    place: Bucket,
    put: Writer,
    objects: Objects,
    contract: Contract,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replication keeps no order: the files may come after the manifest that was written last."""
    [part] = put("b1").manifest.files
    objects.move(f"b1/{part.name}", "kept")
    assert ids(place) == []
    objects.write(f"b1/{part.name}", objects.read("kept")[:10])
    assert ids(place) == []
    monkeypatch.setattr(arrival, "SETTLING", timedelta(0))
    [batch] = place.landed({})
    with pytest.raises(BatchCorrupt, match="of 10 bytes"):
        place.staged(batch, contract)
    objects.write(f"b1/{part.name}", objects.read("kept"))
    monkeypatch.undo()


@pytest.mark.parametrize("change", ["a bit", "longer", "missing"])
def test_a_file_changed_after_its_manifest_is_refused_by_name(
    place: Bucket, put: Writer, objects: Objects, contract: Contract, change: str
) -> None:
    """The manifest's checksum is what the producer meant."""
    [part] = put("b1").manifest.files
    [batch] = place.landed({})
    content = bytearray(objects.read(f"b1/{part.name}"))
    content[len(content) // 2] ^= 1
    if change == "missing":
        objects.delete(f"b1/{part.name}")
    else:
        objects.write(f"b1/{part.name}", bytes(content) + b"x" * (change == "longer"))
    with pytest.raises(BatchCorrupt, match=part.name):
        place.staged(batch, contract)


def test_the_second_writer_of_an_id_is_refused_and_the_first_batch_stays_whole(
    place: Bucket, put: Writer, objects: Objects, contract: Contract, tmp_path: Path
) -> None:
    """The race that a look before the write would lose: the id is free until the very last."""
    rival = Bucket(place.location, "tickets", tmp_path / "other")
    published = Bucket.publish

    def late(self: Bucket, folder: Path, batch_id: str, manifest: Any) -> Batch:
        put("b1", words="the other one", at=rival)
        return published(self, folder, batch_id, manifest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "publish", lambda self, *a: late(self, *a) if self is place
                      else published(self, *a))  # fmt: skip
        with pytest.raises(BatchError, match="The batch id 'b1' is taken"):
            put("b1", words="mine")
    [batch] = place.landed({})
    texts = [r["text"] for c in read_rows(place.staged(batch, contract), contract)
             for r in c.to_pylist()]  # fmt: skip
    assert texts == [f"the other one {i}" for i in range(12)]
    assert len(objects.names()) == 2, "the loser took its parts away"


def test_the_same_content_is_one_batch_under_whatever_name(
    place: Bucket, put: Writer, objects: Objects
) -> None:
    """Re-delivered by us, copied or renamed by hand."""
    first = put("b1", words="same")
    assert put("b2", words="same") == first
    for name in objects.names():
        objects.write(name.replace("b1/", "b3/"), objects.read(name))
    assert {batch.digest for batch in place.landed({})} == {first.digest}
    assert ids(place, **{first.digest: "b1"}) == []


def test_batches_delivered_out_of_order_are_learned_by_event_time(
    place: Bucket, put: Writer
) -> None:
    """A late one comes before what is newer, unless that is settled already."""
    put("b3", day=3)
    second = put("b2", day=2)
    assert ids(place) == ["b2", "b3"]
    put("b1", day=1)
    assert ids(place, **{second.digest: "b2"}) == ["b1", "b3"]


def test_what_is_no_manifest_or_no_name_hides_no_other_batch(
    place: Bucket, put: Writer, objects: Objects
) -> None:
    put("good")
    objects.write(f"bad/{MANIFEST}", b"{}")
    objects.write(f"b d/{MANIFEST}", objects.read(f"good/{MANIFEST}"))
    climbing = json.loads(objects.read(f"good/{MANIFEST}"))
    climbing["files"][0]["name"] = "../good/part.parquet"
    objects.write(f"climbing/{MANIFEST}", json.dumps(climbing).encode())
    assert ids(place) == ["good"]
    assert [one.batch_id for one in place.unreadable()] == ["b d", "bad", "climbing"]
    assert [one.digest for one in place.unreadable()] == [one.digest for one in place.unreadable()]


@pytest.mark.parametrize(
    "address",
    ["s3://key:hush@bucket/p", "s3://bucket/p?secret_key=hush", "s3:///p", "s3://bucket/../p"],
)
def test_an_address_that_holds_more_than_a_place_is_refused_without_repeating_it(
    tmp_path: Path, address: str
) -> None:
    """What is in a stream file is in the repository, in logs and in tags."""
    with pytest.raises(LandingError) as caught:
        Bucket(address, "tickets", tmp_path).landed({})
    assert "hush" not in str(caught.value)


def test_a_store_that_does_not_answer_is_named_and_blames_no_batch(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(LandingUnreachable, match=r"AWS_ENDPOINT_URL.*stay pending"):
        Bucket(f"s3://{bucket}/landing", "tickets", tmp_path).landed({})


def test_a_bucket_that_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(LandingError, match="There is no bucket"):
        Bucket(f"s3://{bucket}-2/landing", "tickets", tmp_path).landed({})


def test_a_scheme_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LandingError, match=r"begins with gs:.*s3://"):
        landing_at(Place("gs://bucket", "tickets", tmp_path))

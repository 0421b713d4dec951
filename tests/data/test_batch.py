from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bhpeft.data.batch import (
    MANIFEST,
    digest_of,
    folder_digest,
    incomplete,
    landed,
    open_batch,
    safe_name,
    unreadable,
)
from bhpeft.data.check import check
from bhpeft.data.contract import Contract
from bhpeft.errors import BatchCorrupt, BatchIncomplete
from tests.data.conftest import Lander
from tests.data.tickets import tickets


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of a batch's manifest."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps(manifest | changes), encoding="utf-8")


def test_a_folder_without_a_manifest_is_not_a_batch_yet(lander: Lander, landing: Path) -> None:
    """A producer that died between its parts and its manifest has delivered nothing."""
    folder = lander(tickets()).folder
    (folder / MANIFEST).unlink()
    with pytest.raises(BatchIncomplete, match="not a batch yet"):
        open_batch(folder)
    assert landed(landing, "tickets") == []
    assert incomplete(landing, "tickets") == [folder]


def test_batches_are_listed_oldest_first_by_event_time_then_id(
    lander: Lander, landing: Path
) -> None:
    """The order in which they are learned is the order in which things happened."""
    now = datetime.now(UTC)
    for name, days in (("c", 1), ("a", 0), ("b", 0)):
        folder = lander(tickets(text=[f"{name} {i}" for i in range(12)]), name).folder
        edit(folder, event_time=(now - timedelta(days=days)).isoformat())
    edit(landing / "tickets" / "b", event_time=now.isoformat())
    edit(landing / "tickets" / "a", event_time=now.isoformat())
    assert [batch.batch_id for batch in landed(landing, "tickets")] == ["c", "a", "b"]
    assert landed(landing / "tickets") == landed(landing, "tickets")
    assert landed(landing, "nothing") == []


def test_a_renamed_delivery_has_the_same_digest(lander: Lander) -> None:
    """The identity of a batch is its content, so learning it twice can be seen."""
    batch = lander(tickets())
    renamed = shutil.copytree(batch.folder, batch.folder.with_name("again"))
    assert open_batch(renamed).digest == batch.digest
    assert open_batch(renamed).batch_id == "again"


def test_a_digest_ignores_the_order_of_the_parts_and_nothing_else() -> None:
    """Repeating a part is another content than having it once."""
    assert digest_of(["aa", "bb"]) == digest_of(["bb", "aa"])
    assert len({digest_of(["aa"]), digest_of(["aa", "aa"]), digest_of(["aabb"])}) == 3


@pytest.mark.parametrize("damage", ["truncated", "one bit", "missing", "extra"])
def test_files_that_are_not_the_manifest_s_are_refused(
    lander: Lander, contract: Contract, damage: str
) -> None:
    """Size, checksum and the list of files must all agree."""
    batch = lander(tickets())
    path = batch.paths[0]
    content = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "one bit":
            path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        case "missing":
            path.unlink()
        case "extra":
            (batch.folder / "part-00009.parquet").write_bytes(content)
    for look in (lambda: open_batch(batch.folder), lambda: check(batch, contract)):
        with pytest.raises(BatchCorrupt, match="not what its manifest says"):
            look()


def test_files_that_begin_with_an_underscore_or_a_dot_are_ignored(lander: Lander) -> None:
    """Spark leaves `_SUCCESS` and `.crc` files behind, and Arrow ignores them too."""
    batch = lander(tickets())
    (batch.folder / "_SUCCESS").touch()
    (batch.folder / ".part.crc").touch()
    assert open_batch(batch.folder) == batch


def test_a_wrong_checksum_in_the_manifest_is_refused_with_both(lander: Lander) -> None:
    """Found and expected, so that it can be seen which of them is wrong."""
    batch = lander(tickets())
    part = batch.manifest.files[0].model_dump() | {"sha256": "0" * 64}
    edit(batch.folder, files=[part])
    with pytest.raises(BatchCorrupt, match=f"{batch.manifest.files[0].sha256}.*{'0' * 64}"):
        open_batch(batch.folder)


BROKEN = {
    "no json": ("{", "document"),
    "unknown key": ({"row": 3}, "'rows'"),
    "no zone": ({"event_time": "2026-01-07T00:00:00"}, "timezone"),
    "negative": ({"rows": -1}, "greater than or equal to 0"),
    "no files": ({"files": []}, "files"),
    "escape": (
        {"files": [{"name": "../b2/part.parquet", "size": 1, "sha256": "0" * 64, "rows": 1}]},
        "not 1 to 100 of",
    ),
}


@pytest.mark.parametrize(("change", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_manifest_that_cannot_be_read_hides_no_other_batch(
    lander: Lander, landing: Path, change: Any, said: str
) -> None:
    """It is reported, for the quarantine, and the stream goes on."""
    good = lander(tickets(), "good")
    bad = lander(tickets(text=[f"other {i}" for i in range(12)]), "bad").folder
    if isinstance(change, str):
        (bad / MANIFEST).write_text(change, encoding="utf-8")
    else:
        edit(bad, **change)
    assert landed(landing, "tickets") == [good]
    [(folder, error)] = unreadable(landing, "tickets")
    assert folder == bad
    assert isinstance(error, BatchCorrupt)
    assert said in error.message
    assert folder_digest(folder) == folder_digest(folder)


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "_hidden", "a/b", "../a", "a\\b", "a\n", "é", "a" * 101, "-rf"]
)
def test_names_that_could_leave_or_hide_in_the_folder_are_refused(name: str) -> None:
    """A batch id becomes a path."""
    with pytest.raises(ValueError, match="is not 1 to 100 of"):
        safe_name(name)


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=120))
def test_a_safe_name_is_one_path_component(name: str) -> None:
    """Whatever is let through stays where it is put, and is seen there."""
    try:
        safe_name(name)
    except ValueError:
        return
    assert (Path("/landing") / name).parent == Path("/landing")
    assert Path("/landing", name).name == name
    assert not name.startswith((".", "_"))

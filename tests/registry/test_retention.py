"""What gc removes, and that nothing in use or on offer needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bhpeft.errors import RegistryError, StateError
from bhpeft.registry import Registry, read_all, remove_waste, waste
from tests.registry.conftest import Learn


def chain_of(registry: Registry, stream: str, state: Path, rounds: int) -> None:
    """Promote so many versions with files, one after the other."""
    for number in range(1, rounds + 1):
        parent = number - 1 or None
        with registry.round_run(stream, f"b{number}", digest=f"sha-{number}", parent=parent) as run:
            run.text("report.html", "<p>large</p>")
            registry.register(run, state, decision="promoted")
        registry.promote(stream, number, expected_parent=parent, by="round", reason="gates pass")


def test_ancestors_lose_their_files_and_keep_their_place_in_the_chain(
    registry: Registry, stream: str, state: Path, tmp_path: Path
) -> None:
    """What was learned is still known; every rollback still offered works, the others are named."""
    chain_of(registry, stream, state, 5)
    store = Path(registry.connection.uri.removeprefix("sqlite:///")).parent / "mlartifacts"

    def files(number: int) -> list[Path]:
        version = registry.version(stream, number)
        model = registry.connection.client.get_model_version(stream, str(number)).model_id
        folders = [p for p in store.rglob("*") if p.name in (version.run_id, model)]
        assert folders
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]

    assert files(1)
    planned = waste(registry.book(stream), keep=1)
    assert [v.number for v in planned.stripped] == [1, 2]
    assert files(1)

    for expected in ("files of v1, v2", "nothing"):
        assert str(remove_waste(registry, stream, 1, by="anna")) == expected

    assert files(1) == files(2) == []
    assert files(3)
    last = registry.history(stream)[-1]
    assert (last.kind, last.who, last.why) == ("gc", "anna", "kept 1; removed files of v1, v2")
    assert registry.learned(stream, 5) == {f"sha-{n}" for n in range(1, 6)}
    assert registry.repair(stream) == []
    for gone in (1, 2):
        with pytest.raises(RegistryError, match=r"files of .* were removed; .* one of v3, v4"):
            registry.roll_back(stream, gone, by="anna", reason="complaints")
        with pytest.raises(StateError, match="removed by `bhpeft gc`"):
            registry.download(registry.version(stream, gone), tmp_path / "gone")
    registry.roll_back(stream, 3, by="anna", reason="complaints")
    champion = registry.champion(stream)
    assert champion is not None
    assert registry.download(champion, tmp_path / "v3").is_dir()


def test_what_is_on_no_chain_in_use_goes_altogether_and_stays_refused(
    registry: Registry, stream: str, state: Path, learn: Learn
) -> None:
    """A refused version goes once the log alone says so; a held one stays, however old."""
    chain_of(registry, stream, state, 1)
    learn("b2", 1, "refused")
    learn("b3", 1, "held")
    with registry.round_run(stream, "b4", digest="sha-b4", parent=1) as run:
        registry.register(run, state, decision="refused")
    registry.hold(stream, 3, by="round", reason="a slice is missing")
    registry.refuse(stream, 4, by="round", reason="worse")

    found = remove_waste(registry, stream, 0, by="anna")

    assert ([v.number for v in found.stripped], [v.number for v in found.deleted]) == ([], [4])
    assert [v.number for v in registry.versions(stream)] == [1, 2, 3]
    assert registry.refused(stream) == {"sha-b2", "sha-b4"}
    assert [v.number for v in registry.held(stream)] == [3]


def test_all_books_at_once_are_the_books_one_by_one(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """Two ways to read the same facts."""
    learn("b1", None)
    learn("b2", 1, "refused")
    registry.refuse(stream, 2, by="round", reason="worse")
    with pytest.raises(RuntimeError), registry.round_run(stream, "b3", digest="sha", parent=1):
        raise RuntimeError("shapes")
    one = registry.book(stream)
    assert read_all(registry)[stream] == one
    assert [(f.batch_id, f.kind) for f in one.failures] == [("b3", "Unexpected")]
    assert (one.champion and one.champion.number, one.refused) == (1, {"sha-b2"})

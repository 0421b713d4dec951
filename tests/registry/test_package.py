from __future__ import annotations

import resource
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import torch
from safetensors.torch import load_file, save_file

from bhpeft.errors import RegistryError, StateError
from bhpeft.registry import Registry, Version
from bhpeft.registry.package import pip_requirements


def folder_of(registry: Registry, stream: str, number: int) -> Path:
    """Return where the store keeps a version's files."""
    where = registry.connection.client.get_model_version_download_uri(stream, str(number))
    return Path(unquote(urlparse(where).path))


def test_a_version_knows_its_parent_batch_files_and_facts(
    registry: Registry, stream: str, state: Path
) -> None:
    with registry.round_run(stream, "b1", digest="sha-b1", parent=None) as run:
        version = registry.register(
            run,
            state,
            decision="held",
            description="# b1: held\n\n| gate | outcome |",
            tags={"kl_weight": 0.5, "base_model": "minilm"},
        )
    assert (version.number, version.parent, version.decision) == (1, None, "held")
    assert (version.batches, version.batch_ids) == (("sha-b1",), ("b1",))
    assert version.tags["bhpeft.kl_weight"] == "0.5"
    assert version.tags["bhpeft.base_model"] == "minilm"
    assert version.aliases == ("candidate",)
    assert version.description.startswith("# b1: held")
    assert set(version.checksums) == {"posterior.safetensors", "spec.json"}
    assert version.run_id == run.run_id


def test_what_was_registered_comes_back_bit_exact(
    registry: Registry, stream: str, state: Path, version: Version, tmp_path: Path
) -> None:
    back = registry.download(version, tmp_path / "cache" / "v1")
    assert {file.name for file in back.iterdir()} == {"posterior.safetensors", "spec.json"}
    before, after = (load_file(f / "posterior.safetensors") for f in (state, back))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_is_fetched_twice(
    registry: Registry, stream: str, version: Version, tmp_path: Path
) -> None:
    """A whole copy is kept; a damaged one is replaced."""
    copy = registry.download(version, tmp_path / "v1")
    before = (copy / "spec.json").stat().st_ino
    assert (registry.download(version, copy) / "spec.json").stat().st_ino == before
    (copy / "spec.json").write_text("{}")
    assert "labels" in (registry.download(version, copy) / "spec.json").read_text()


def test_a_posterior_altered_in_the_store_is_not_loaded(
    registry: Registry, stream: str, version: Version, tmp_path: Path
) -> None:
    adapter = folder_of(registry, stream, version.number) / "artifacts" / "adapter"
    save_file({"mean/0.query.lora.a": torch.zeros(2, 3)}, adapter / "posterior.safetensors")
    with pytest.raises(StateError, match=r"posterior\.safetensors"):
        registry.download(version, tmp_path / "v1")
    assert not (tmp_path / "v1").exists()


def test_a_file_lost_from_the_store_is_named(
    registry: Registry, stream: str, version: Version, tmp_path: Path
) -> None:
    (folder_of(registry, stream, version.number) / "artifacts" / "adapter" / "spec.json").unlink()
    with pytest.raises(StateError, match=r"spec\.json: no file"):
        registry.download(version, tmp_path / "v1")


def test_a_stored_version_holds_no_pickle(
    registry: Registry, stream: str, version: Version
) -> None:
    files = [f for f in folder_of(registry, stream, version.number).rglob("*") if f.is_file()]
    assert "pyfunc_model.py" in {file.name for file in files}
    suffixes = {file.suffix for file in files}
    assert suffixes <= {".safetensors", ".json", ".py", ".yaml", ".txt", ""}
    assert {file.name for file in files if not file.suffix} == {"MLmodel"}


def test_a_state_folder_with_a_pickle_is_not_registered(
    registry: Registry, stream: str, state: Path
) -> None:
    (state / "optimizer.pt").write_bytes(b"\x80\x04")
    with (
        pytest.raises(StateError, match=r"optimizer\.pt"),
        registry.round_run(stream, "b1", digest="d", parent=None) as run,
    ):
        registry.register(run, state, decision="promoted")
    assert registry.versions(stream) == []


def test_a_full_disk_at_registration_moves_no_alias_and_fails_the_run(
    registry: Registry, stream: str, state: Path, version: Version
) -> None:
    """A file size limit of the kernel stands in for the disk: the same write fails the same way."""
    save_file({"mean/x": torch.zeros(2_000_000)}, state / "posterior.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, limits[1]))
    try:
        with (
            pytest.raises(RegistryError, match="File too large"),
            registry.round_run(stream, "b2", digest="d2", parent=1) as run,
        ):
            registry.register(run, state, decision="promoted")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert registry.connection.client.get_run(run.run_id).info.status == "FAILED"
    assert registry.champion(stream) == version
    assert registry.candidate(stream) is None
    assert [v.number for v in registry.versions(stream)] == [1]


def test_the_version_pins_what_predicting_needs() -> None:
    pins = pip_requirements()
    assert any(pin.startswith("bhpeft==") for pin in pins)
    assert any(pin.startswith("torch==") and "+" not in pin for pin in pins)

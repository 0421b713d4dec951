"""What pip may install: each pin of pyproject.toml is there for a fact, and here is the fact."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
FOR_DEVELOPERS = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]


def constraints() -> dict[str, str]:
    """Return the versions of constraints.txt by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("#")[0].strip() for line in lines]
    return dict(_pin(line) for line in pins if line)


def _pin(line: str) -> tuple[str, str]:
    found = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line)
    assert found, f"{line!r} is not a pin"
    return canonicalize_name(found[1]), found[2]


def pinned_below(name: str) -> str:
    """Return the upper limit of a dependency."""
    requirement = next(one for one in NEEDED if one.name == name)
    upper = [one.version for one in requirement.specifier if one.operator == "<"]
    assert len(upper) == 1
    return upper[0]


@pytest.mark.parametrize(
    ("name", "limit"), [("pandas", "3.1"), ("fastapi", "0.151"), ("sqlalchemy", "2.1")]
)
def test_what_a_plain_install_gets_wrong_is_pinned_and_kept(name: str, limit: str) -> None:
    """Above: evidently breaks, Prefect's server does not start, its schedules create no run.

    That a schedule creates one here is shown in tests/flows.
    """
    assert pinned_below(name) == limit
    assert Version(metadata.version(name)) < Version(limit)


def test_evidently_can_be_imported_beside_this_pandas() -> None:
    """With pandas 3.1 it fails on a function that is gone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import Report
    assert Report([]).metrics == []


@pytest.mark.parametrize("requirement", [*NEEDED, *FOR_DEVELOPERS], ids=lambda one: str(one.name))
def test_what_is_installed_is_what_the_project_asks_for(requirement: Requirement) -> None:
    assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)


def test_the_constraints_leave_torch_and_its_companions_to_the_machine() -> None:
    """One file serves CPU and GPU users; a pinned CUDA library would be fetched by both."""
    companions = re.compile(r"torch$|nvidia|cuda|triton|cudnn|cublas|nccl")
    assert [name for name in constraints() if companions.search(name)] == []


def test_the_constraints_pin_every_direct_dependency_to_what_is_tested_here() -> None:
    pins = constraints()
    for requirement in [*NEEDED, *FOR_DEVELOPERS]:
        name = canonicalize_name(requirement.name)
        if name != "torch":
            assert pins[name] == metadata.version(name), name
            assert requirement.specifier.contains(pins[name], prereleases=True), name


def test_the_constraints_name_no_machine() -> None:
    """No paths, no addresses, no editable installs: they must resolve anywhere."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|file:|^-e|/|@", text, re.MULTILINE)


def test_no_public_default_is_left_to_a_hub_at_run_time() -> None:
    """The demo's weights and every stream we ship come from packages or folders."""
    for path in (ROOT / "deploy" / "streams").glob("*.toml"):
        model = tomllib.loads(path.read_text(encoding="utf-8"))["model"]
        assert model["base"].startswith("package:") or model.get("revision"), path


@pytest.mark.skipif(not shutil.which("make"), reason="no make here")
def test_a_postgresql_that_cannot_be_installed_is_skipped_by_name(tmp_path: Path) -> None:
    """On a fresh machine the rest has to run, whatever the package index says."""
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'E: no index answers' >&2\nexit 100\n", encoding="utf-8")
    apt.chmod(0o755)
    for program in ("bash", "sh", "id", "ls", "mktemp", "tail", "rm", "timeout"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    done = subprocess.run(
        [str(shutil.which("make")), "--no-print-directory", "postgres", "POSTGRES_AT=/nowhere",
         f"SHELL={tmp_path / 'bash'}"],
        cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("SKIPPED: the database roles"), done.stdout + done.stderr
    wanted = "no index answers" if os.geteuid() == 0 else "apt-get install postgresql"
    assert wanted in done.stdout

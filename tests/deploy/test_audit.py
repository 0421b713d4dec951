from __future__ import annotations

import runpy
from pathlib import Path

import pytest

audit = runpy.run_path(str(Path(__file__).parents[2] / "deploy" / "audit.py"))
CLEAN = {"name": "a", "version": "1", "vulns": []}
WEAK = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNASKED = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        ([CLEAN], 0, "1 asked about, 0 weaknesses"),
        ([CLEAN, WEAK], 1, "b 2: CVE-1, mended in 3"),
        ([CLEAN, UNASKED], 0, "could not be asked about: c"),
        ([UNASKED], 0, "SKIPPED"),
    ],
)
def test_nobody_asked_is_not_the_same_as_nothing_found(
    dependencies: list[dict[str, object]], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """pip-audit itself answers « No known vulnerabilities found » when its database is away."""
    assert audit["judged"](dependencies) == code
    assert said in capsys.readouterr().out

"""Run `make chaos` in its short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from chaos.faults import FAULTS
from chaos.served import Served

# On a stage with servers, which take a minute to start.
SERVED = [name for name, fault in FAULTS.items() if fault.stage is Served]


def chaos(out: Path, *options: str, story: str = "three rounds") -> dict[str, Any]:
    """Run it as a user does: it forks, which a process full of test threads had better not."""
    command = [sys.executable, "-m", "chaos", *options, "--story", story, "--out", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1150)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found: dict[str, Any] = json.loads((out / "chaos.json").read_text())
    assert found["violations"] == []
    return found

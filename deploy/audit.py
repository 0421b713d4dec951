"""Ask pip-audit about every pin of a constraints file; say so where its database cannot be reached.

python deploy/audit.py constraints.txt

Ends with 1 when a pin has a known weakness, with 0 when none has, or when nobody could be asked.
Where the database does not answer, pip-audit by itself says "No known vulnerabilities found".
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def main(constraints: str) -> int:
    """Run the audit and return what the process should end with."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", constraints, "--no-deps"]
    command += ["--disable-pip", "--progress-spinner", "off", "--timeout", "15", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return told(f"SKIPPED: pip-audit could not ask ({done.stderr.strip()[-200:]})", 0)
    return judged(report["dependencies"])


def judged(dependencies: list[dict[str, Any]]) -> int:
    """Say what is known of each dependency."""
    asked = [one for one in dependencies if "vulns" in one]
    unknown = [one["name"] for one in dependencies if "vulns" not in one]
    if not asked:
        return told("SKIPPED: the database of weaknesses answered for no package at all", 0)
    weak = [
        f"{one['name']} {one['version']}: {weakness['id']}, mended in "
        f"{', '.join(weakness['fix_versions']) or 'no version yet'}"
        for one in asked
        for weakness in one["vulns"]
    ]
    if unknown:
        weak_or_not = f"{len(unknown)} could not be asked about: {', '.join(unknown)}"
        told(weak_or_not, 0)
    return told("\n".join([*weak, f"{len(asked)} asked about, {len(weak)} weaknesses"]), bool(weak))


def told(text: str, code: int) -> int:
    """Print a line and pass the code on."""
    sys.stdout.write(f"{text}\n")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

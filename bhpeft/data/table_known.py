"""Remember on this machine what a table's versions added, and where its batches were cut.

Versions never change, so looking at one again could only cost time; and a batch that waits must not
grow with its table, or a second attempt would be another batch. Losing the file loses neither rows
nor order, and of what a round has learned or tried the registry knows where it was cut.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bhpeft.data import staging
from bhpeft.data.spans import Commit


@dataclass(frozen=True)
class Known:
    """What has been seen of a table.

    Attributes:
        path: the file.
        commits: each version's.
        ends: first version → last, of every batch that has been cut.
    """

    path: Path
    commits: dict[int, Commit]
    ends: dict[int, int]

    @classmethod
    def read(cls, path: Path) -> Known:
        """Return what the file holds; nothing if there is none."""
        if not path.exists():
            return cls(path, {}, {})
        content = json.loads(path.read_text(encoding="utf-8"))
        commits = [
            Commit(version, rows, datetime.fromisoformat(when), rewrites)
            for version, rows, when, rewrites in content["commits"]
        ]
        ends = {int(first): int(last) for first, last in content["ends"].items()}
        return cls(path, {commit.version: commit for commit in commits}, ends)

    def write(self) -> None:
        """Keep it, if there is anything new."""
        commits = [
            [c.version, c.rows, c.when.isoformat(), c.rewrites] for c in self.commits.values()
        ]
        content = json.dumps({"commits": commits, "ends": self.ends}).encode()
        if self.path.exists() and self.path.read_bytes() == content:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        staging.write_whole(self.path, content)

"""The windows in which Prefect's server leaves a lock half taken or half given back."""

from __future__ import annotations

from pathlib import Path

# What is kept and what is not, where the server dies.
WINDOWS = {
    "taken": "the slot is taken and no lease written",
    "unlisted": "the lease is written and not in the list of those that run out",
    "run out": "the lease that ran out is removed and its slot not given back",
    "forgotten": "a living holder's lease is forgotten, as by a server that has it in memory",
}


def folder(home: Path) -> Path:
    """Return where the server of a Prefect home keeps its leases, by default."""
    return home / "concurrency_leases"


def order(leases: Path) -> Path:
    """Return the file that says in which window the server is to die."""
    return leases / "die"

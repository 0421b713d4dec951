"""The record of every stream: runs, versions, aliases and the promotion log, kept in MLflow.

The only package that imports MLflow, and only once a registry is used: importing these names
costs nothing.

    registry = Registry("http://127.0.0.1:5000")
    with registry.round_run("reviews", "2026-01-07", digest=digest, parent=2) as run:
        run.metrics({"holdout/accuracy": 0.81})
        version = registry.register(run, folder, decision="promoted", description=markdown)
        registry.promote("reviews", version.number, expected_parent=2, by="round", reason="gates")
"""

from __future__ import annotations

from bhpeft.registry.book import Book
from bhpeft.registry.books import glanced, read_all
from bhpeft.registry.records import POPULATION, Entry, Failure, Move, Version, population_name
from bhpeft.registry.registry import Registry
from bhpeft.registry.retention import Waste, remove_waste, waste
from bhpeft.registry.round_run import RoundRun

__all__ = [
    "Registry",
    "RoundRun",
    "Book",
    "Version",
    "Move",
    "Failure",
    "Entry",
    "glanced",
    "POPULATION",
    "population_name",
    "read_all",
    "waste",
    "remove_waste",
    "Waste",
]

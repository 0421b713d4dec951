"""Registered versions and aliases: reading them with few calls, and moving them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bhpeft.registry.connection import Connection
from bhpeft.registry.records import (
    CANDIDATE,
    CHAMPION,
    POPULATION,
    PREFIX,
    PREVIOUS,
    REFUSED,
    STREAM,
    Entry,
    Version,
    aliases_of,
    number_of,
    prefixed,
    utc,
)

_OURS = PREFIX + "kind"
_NOTE = """Adapter posteriors of the stream **{stream}**, kept by bhpeft.

| alias | is |
|---|---|
| `champion` | the posterior in use: `models:/{stream}@champion` |
| `previous` | the champion before the last move |
| `candidate` | learned last, not promoted: refused, or held for a person |

Each version's description has its gate table; `bhpeft.prior_version` names the version whose
posterior was its prior. Every move of the champion, with who and why, is a run of the experiment
`bhpeft/{stream}/moves`; the rounds are runs of `bhpeft/{stream}`.
"""


_POPULATION_NOTE = """What the streams of a group have in common, kept by bhpeft: Θ and τ.

| alias | is |
|---|---|
| `champion` | the base prior of the group's next rounds: `models:/{stream}@champion` |
| `previous` | the one before the last move |

Each version's description says which promoted posteriors it is made of. Every move, with who and
why, is a run of the experiment `bhpeft/{stream}/moves`; `bhpeft population` shows and moves it.
"""
_NOTES = {STREAM: _NOTE, POPULATION: _POPULATION_NOTE}


class Versions:
    """The versions and aliases of all streams on one connection."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def all(self, stream: str) -> dict[int, Version]:
        """Return every version of a stream by its number; two calls, however many there are."""
        aliases = self.aliases(stream)
        if aliases is None:
            return {}
        found = self._search(f"name='{stream}'", f"list the versions of {stream!r}")
        versions = [_version(item, aliases) for item in found]
        return {v.number: v for v in sorted(versions, key=lambda v: v.number)}

    def of_all(self) -> dict[str, dict[int, Version]]:
        """Return every version of every stream; a few calls, however many there are."""
        aliases = {entry.stream: entry.aliases for entry in self.streams()}
        found: dict[str, dict[int, Version]] = {stream: {} for stream in aliases}
        for item in self._search("", "list the versions of all streams"):
            if item.name in aliases:
                found[item.name][int(item.version)] = _version(item, aliases[item.name])
        return {stream: dict(sorted(numbered.items())) for stream, numbered in found.items()}

    def champions_of(self, group: str) -> list[Version]:
        """Return the champions learned in a group, by stream; a few calls, however many."""
        aliases = {entry.stream: entry.aliases for entry in self.streams()}
        only = f"tags.`{PREFIX}group` = '{group}'"
        items = self._search(only, f"list the versions of the group {group!r}")
        found = [_version(item, aliases[item.name]) for item in items if item.name in aliases]
        return sorted((v for v in found if CHAMPION in v.aliases), key=lambda v: v.stream)

    def _search(self, only: str, doing: str) -> list[Any]:
        found: list[Any] = []
        token = None
        with self._connection.translated(doing):
            while True:
                page = self._connection.client.search_model_versions(
                    only or None, max_results=10_000, page_token=token
                )
                found += page
                token = page.token
                if not token:
                    return found

    def one(self, stream: str, number: int) -> Version | None:
        """Return one version, or None; two calls, however many versions there are."""
        from mlflow.exceptions import MlflowException

        aliases = self.aliases(stream)
        if aliases is None:
            return None
        with self._connection.translated(f"read {stream} v{number}"):
            try:
                found = self._connection.client.get_model_version(stream, str(number))
            except MlflowException as problem:
                if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        return _version(found, aliases)

    def aliases(self, stream: str) -> dict[str, int] | None:
        """Return alias → number, or None if the stream has never been registered."""
        from mlflow.exceptions import MlflowException

        client = self._connection.client
        with self._connection.translated(f"read the aliases of {stream!r}"):
            try:
                # search_model_versions would leave the aliases empty.
                model = client.get_registered_model(stream)
            except MlflowException as problem:
                if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        return {name: int(number) for name, number in model.aliases.items()}

    def number(self, stream: str, alias: str) -> int | None:
        """Return the number behind an alias, or None."""
        return (self.aliases(stream) or {}).get(alias)

    def streams(self) -> list[Entry]:
        """Return every stream in the registry, by name; one call."""
        found: list[Any] = []
        token = None
        with self._connection.translated("list the streams"):
            while True:
                page = self._connection.client.search_registered_models(
                    f"tags.`{_OURS}` = '{STREAM}'", max_results=1000, page_token=token
                )
                found += page
                token = page.token
                if not token:
                    break
        return sorted((_entry(model) for model in found), key=lambda entry: entry.stream)

    def ensure_stream(self, stream: str, kind: str = STREAM) -> None:
        """Make the registered model of a stream, or of a population, if there is none."""
        if self.aliases(stream) is not None:
            return
        from mlflow.exceptions import MlflowException

        with self._connection.translated(f"register stream {stream!r}"):
            try:
                self._connection.client.create_registered_model(
                    stream, tags={_OURS: kind}, description=_NOTES[kind].format(stream=stream)
                )
            except MlflowException as problem:
                if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise

    def point(self, stream: str, alias: str, number: int | None) -> None:
        """Move one alias; None takes it away."""
        with self._connection.translated(f"move {stream}@{alias}"):
            if number is None:
                self._connection.client.delete_registered_model_alias(stream, alias)
            else:
                self._connection.client.set_registered_model_alias(stream, alias, str(number))

    def tag(self, version: Version, **facts: object) -> None:
        """Set tags on a version and on the run that made it."""
        with self._connection.translated(f"tag {version}"):
            client = self._connection.client
            for key, value in prefixed(facts).items():
                client.set_model_version_tag(version.stream, str(version.number), key, value)
                if version.run_id:
                    client.set_tag(version.run_id, key, value)


def _version(item: Any, aliases: Mapping[str, int]) -> Version:
    number = int(item.version)
    tags = dict(item.tags)
    return Version(
        stream=item.name,
        number=number,
        parent=number_of(tags.get(PREFIX + "prior_version")),
        batches=tuple(json.loads(tags.get(PREFIX + "batch_digests", "[]"))),
        batch_ids=tuple(json.loads(tags.get(PREFIX + "batch_ids", "[]"))),
        # A version somebody registered by hand passed no gate.
        decision=tags.get(PREFIX + "decision", REFUSED),
        run_id=item.run_id or "",
        created=utc(item.creation_timestamp),
        tags=tags,
        aliases=aliases_of(number, aliases),
        description=item.description or "",
    )


def _entry(model: Any) -> Entry:
    aliases = {name: int(number) for name, number in model.aliases.items()}
    return Entry(
        stream=model.name,
        champion=aliases.get(CHAMPION),
        previous=aliases.get(PREVIOUS),
        candidate=aliases.get(CANDIDATE),
        updated=utc(model.last_updated_timestamp),
        aliases=aliases,
    )

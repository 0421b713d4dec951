"""The promotion log: who moved the champion, when, from, to and why; MLflow keeps no such history.

A move is one short MLflow run in the experiment `bhpeft/<stream>/moves`, so that a reviewer sees
it in the UI. It is opened before the first alias moves and closed after the last: a run left open
is a move that a crash cut in half, and says by itself how to finish it. See `promotion.repair`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bhpeft.registry.connection import Connection
from bhpeft.registry.records import (
    PREFIX,
    Move,
    digests_as_tags,
    digests_from_tags,
    milliseconds,
    number_of,
    prefixed,
    utc,
)

_NOTE = (
    "The promotion log of stream **{stream}**: one run a move, append-only. MLflow keeps no "
    "history of aliases, so this is it. `bhpeft history {stream}` shows it as a table."
)


@dataclass(frozen=True)
class Logged:
    """A move and the run that holds it.

    Attributes:
        move: the move.
        run_id: its MLflow run.
        state: "done", "open" (a crash cut it in half) or "abandoned".
    """

    move: Move
    run_id: str
    state: str


_STATES = {"FINISHED": "done", "RUNNING": "open"}


class MoveLog:
    """The promotion logs of all streams on one connection."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def read(self, stream: str, only: str = "") -> list[Logged]:
        """Return the moves of a stream, newest last; one call to the server.

        Args:
            stream: the stream.
            only: a filter in MLflow's language, for less than the whole log.
        """
        experiment = self._connection.known_experiment(_name(stream))
        if experiment is None:
            return []
        return self._read([experiment], only, f"read the promotion log of {stream!r}")

    def of_all(self, experiments: list[list[str]]) -> dict[str, list[Move]]:
        """Return the moves that happened, newest last, by stream; one call a list of logs."""
        found: dict[str, list[Move]] = {}
        for piece in experiments:
            for entry in self._read(piece, "", "read the promotion logs"):
                if entry.state == "done":
                    found.setdefault(entry.move.stream, []).append(entry.move)
        return found

    def unfinished(self, stream: str) -> list[Logged]:
        """Return the moves that a crash cut in half, oldest first."""
        return self.read(stream, "attributes.status = 'RUNNING'")

    def history(self, stream: str) -> list[Move]:
        """Return the moves that happened, newest last."""
        return [entry.move for entry in self.read(stream) if entry.state == "done"]

    def open(self, move: Move) -> str:
        """Write down what is about to happen; return the run to close when it has."""
        experiment = self._connection.experiment(
            _name(move.stream), _NOTE.format(stream=move.stream)
        )
        with self._connection.translated(f"log «{move.title}»"):
            run = self._connection.client.create_run(
                experiment,
                start_time=milliseconds(move.when),
                run_name=f"{move.title}: {move.why[:120]}",
                tags=_tags(move),
            )
        return str(run.info.run_id)

    def close(self, run_id: str) -> None:
        """Mark a move as done."""
        self._end(run_id, "FINISHED")

    def state(self, run_id: str) -> str:
        """Return the state of one entry now: another process may have finished it meanwhile."""
        with self._connection.translated("read an entry of the promotion log"):
            run = self._connection.client.get_run(run_id)
        return _STATES.get(run.info.status, "abandoned")

    def abandon(self, run_id: str, why: str) -> None:
        """Mark a move as never done, and say why."""
        with self._connection.translated("annotate the promotion log"):
            self._connection.client.set_tag(run_id, PREFIX + "abandoned", why)
        self._end(run_id, "FAILED")

    def next_time(self, stream: str) -> datetime:
        """Return now, or the instant after the last entry if this machine's clock is behind."""
        now = utc(milliseconds(datetime.now(UTC)))
        later = self.read(stream, f"attributes.start_time >= {milliseconds(now)}")
        return later[-1].move.when + timedelta(milliseconds=1) if later else now

    def _read(self, experiments: list[str], only: str, doing: str) -> list[Logged]:
        found: list[Any] = []
        token = None
        with self._connection.translated(doing):
            while True:
                page = self._connection.client.search_runs(
                    experiments, only, max_results=1000, page_token=token
                )
                found += page
                token = page.token
                if not token:
                    break
        logged = [_logged(run) for run in found]
        return sorted(logged, key=lambda entry: (entry.move.when, entry.run_id))

    def _end(self, run_id: str, status: str) -> None:
        with self._connection.translated("close an entry of the promotion log"):
            self._connection.client.set_terminated(run_id, status)


def _name(stream: str) -> str:
    return f"bhpeft/{stream}/moves"


def _tags(move: Move) -> dict[str, str]:
    facts = {
        "stream": move.stream,
        "move": move.kind,
        "who": move.who,
        "from": move.from_version,
        "to": move.to_version,
        "why": move.why,
        "mlflow.user": move.who,
        "mlflow.source.name": "bhpeft move",
        "mlflow.note.content": f"**{move.title}** by {move.who}: {move.why}",
    }
    return {
        **prefixed(facts),
        **digests_as_tags("refused_batches", move.refused_batches),
        **digests_as_tags("released_batches", move.released_batches),
    }


def _logged(run: Any) -> Logged:
    tags: Mapping[str, str] = run.data.tags
    move = Move(
        kind=tags.get(PREFIX + "move", ""),
        stream=tags.get(PREFIX + "stream", ""),
        when=utc(run.info.start_time),
        who=tags.get(PREFIX + "who", ""),
        from_version=number_of(tags.get(PREFIX + "from")),
        to_version=number_of(tags.get(PREFIX + "to")),
        why=tags.get(PREFIX + "why", ""),
        refused_batches=digests_from_tags("refused_batches", tags),
        released_batches=digests_from_tags("released_batches", tags),
    )
    return Logged(move, run.info.run_id, _STATES.get(run.info.status, "abandoned"))

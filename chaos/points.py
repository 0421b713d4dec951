"""Every place at which a worker reads or writes, by name, found from outside the product.

A name says what is about to happen and which function of bhpeft asked for it, for example
`before set_registered_model_alias champion · versions.point`. Five observers find them:

- the stand-in for MLflow's client: before and after each call that writes;
- SQLAlchemy's events: before each writing statement and each commit;
- Python's audit events: before a file is opened for writing, renamed, removed, a folder made;
- the runner of the round's steps: before and after each step;
- a stand-in for what sends HTTP requests: before and after each that changes something at Prefect.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import Any

READS = ("get_", "search_", "list_", "download_")
FILE_EVENTS = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
}
# What a name may say of a call: which alias, which end of a run, which tag.
TELLING = {
    "set_registered_model_alias": lambda args, kwargs: args[1],
    "delete_registered_model_alias": lambda args, kwargs: args[1],
    "set_terminated": lambda args, kwargs: args[1],
    "set_model_version_tag": lambda args, kwargs: args[2],
    "set_tag": lambda args, kwargs: args[1],
    "finalize_logged_model": lambda args, kwargs: args[1],
}
# Requests that only read, or that nobody waits for.
READING = ("filter", "filter_minimal", "read", "paginate", "csrf-token", "logs", "events")
IDENTIFIER = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=/)[^/]*chaos[^/]*")


class Points:
    """Counts the places a process passes, and sends it a signal at one of them.

    Args:
        target: the name and the how-manieth time; None never kills.
        without: steps of a round that are left out.
        by: the signal it is sent there; SIGSTOP suspends it.

    Attributes:
        seen: how often each place was passed.
        woken: whether it was suspended and goes on.
    """

    def __init__(
        self,
        target: tuple[str, int] | None = None,
        without: tuple[str, ...] = (),
        by: signal.Signals = signal.SIGKILL,
    ):
        self.seen: Counter[str] = Counter()
        self.woken = False
        self._target, self._without, self._by = target, without, by
        self._out: int | None = None

    def telling(self, out: int) -> Points:
        """Return itself, now writing the place to a file descriptor before the signal."""
        self._out = out
        return self

    def reached(self, what: str) -> None:
        """Pass a place, or die there."""
        name = f"{what} · {asked_by(walk_stack(sys._getframe(1)))}"
        self.seen[name] += 1
        if self._target == (name, self.seen[name]):
            if self._out is not None:
                os.write(self._out, name.encode())
            os.kill(os.getpid(), self._by)
            self.woken = True

    def watch(self, registry: Any, home: str) -> None:
        """Observe this process from now on; there is no way back, so do it in a child."""
        connection = registry.connection
        connection.__dict__["client"] = WatchedClient(connection.client, self)
        _watch_sql(self)
        _watch_files(self, home)

    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a step of a round, all but those to be left out; given to `learn` as its runner."""
        name = step.__name__
        if name in self._without:
            return None
        self.reached(f"before step {name}")
        result = step(*args, **kwargs)
        self.reached(f"after step {name}")
        return result


class WatchedClient:
    """MLflow's client, with a place before and after each call that writes."""

    def __init__(self, client: Any, points: Points):
        self._client, self._points = client, points

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or name.startswith(READS):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            told = f"{name} {TELLING[name](args, kwargs)}" if name in TELLING else name
            self._points.reached(f"before {told}")
            result = found(*args, **kwargs)
            self._points.reached(f"after {told}")
            return result

        return call


def watch_requests(points: Points, server: str) -> None:
    """Observe what this process asks a server to do, whichever thread asks."""
    import httpx

    @contextmanager
    def around(request: httpx.Request) -> Iterator[None]:
        what = _asked(request.method, str(request.url).partition(server)[2])
        if what:
            points.reached(f"before {what}")
        yield
        if what:
            points.reached(f"after {what}")

    def send(self: httpx.Client, request: httpx.Request, **how: Any) -> httpx.Response:
        with around(request):
            return real(self, request, **how)

    async def send_later(
        self: httpx.AsyncClient, request: httpx.Request, **how: Any
    ) -> httpx.Response:
        with around(request):
            return await later(self, request, **how)

    real, later = httpx.Client.send, httpx.AsyncClient.send
    httpx.Client.send, httpx.AsyncClient.send = send, send_later  # type: ignore[method-assign]


def _asked(method: str, path: str) -> str:
    """Return what a request changes, without ids; empty if it only reads, or asks somebody else."""
    words = path.partition("?")[0].strip("/").removeprefix("v2/")
    if method == "GET" or not words or words.endswith(READING):
        return ""
    return f"{method} {IDENTIFIER.sub('…', words)}"


def _watch_sql(points: Points) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "before_cursor_execute")
    def statement(_conn: Any, _cursor: Any, sql: str, *_rest: Any) -> None:
        words = sql.split()
        verb = words[0].upper()
        if verb in ("INSERT", "UPDATE", "DELETE"):
            points.reached(f"SQL {verb} {words[1 if verb == 'UPDATE' else 2]}")

    @event.listens_for(Engine, "commit")
    def commit(_conn: Any) -> None:
        points.reached("SQL COMMIT")


def _watch_files(points: Points, home: str) -> None:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def heard(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            if not (flags & writing if mode is None else set(mode) & set("wax+")):
                return
            told = f"write {Path(str(path)).suffix or 'file'}"
        elif event in FILE_EVENTS:
            path = args[0]
            told = FILE_EVENTS[event]
        else:
            return
        if str(path).startswith(home):
            points.reached(told)

    sys.addaudithook(heard)


def asked_by(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the first function of ours among frames, innermost first, as `module.function`."""
    for frame, _ in frames:
        module, function = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        # Where errors are put into our words is not where they come from.
        if module.startswith(("bhpeft.", "flows.")) and function != "translated":
            return f"{module.rpartition('.')[2]}.{function}"
    return "another thread"

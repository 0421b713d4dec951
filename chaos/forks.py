"""Do a piece of work in a forked child: warm from the first instruction, gone without a trace.

Importing torch, transformers and MLflow takes ten seconds, a whole story of rounds two; so the
parent imports and never works, and every child is a process of its own that may be killed.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        killed: the signal that ended it; 0 if it came to its end.
        said: what it returned, as JSON data; {"error": traceback} if it raised.
        seconds: how long it took.
    """

    killed: int
    said: Any
    seconds: float


def in_child(work: Callable[[int], Any], timeout: float = 120.0, kill_after: float = 0.0) -> Ended:
    """Run `work(fd)` in a fork and return what it returned; `fd` takes words before a death.

    Args:
        work: its result must be JSON data.
        timeout: seconds after which the child counts as hanging and is killed.
        kill_after: seconds after which it is killed on purpose; 0 for never.
    """
    began = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(work, writing)
    os.close(writing)
    said, hung = _listen(pid, reading, timeout, kill_after)
    status = os.waitpid(pid, 0)[1]
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    seconds = time.monotonic() - began
    if hung:
        return Ended(0, {"error": f"hung for {timeout:.0f} s"}, seconds)
    if killed:
        return Ended(killed, said.decode(), seconds)
    return Ended(0, json.loads(said or b"null"), seconds)


@dataclass
class Suspended:
    """A child that has stopped itself somewhere, or has come to its end.

    Attributes:
        pid: its process.
        place: where it stopped; empty if it ended instead.
    """

    pid: int
    place: str
    reading: int
    timeout: float

    def end(self) -> Ended:
        """Wait until it has ended."""
        began = time.monotonic()
        said, hung = _listen(self.pid, self.reading, self.timeout, 0.0)
        os.waitpid(self.pid, 0)
        error = {"error": "hung"} if hung else json.loads(said or b"null")
        return Ended(0, error, time.monotonic() - began)


def begun(work: Callable[[int], Any], timeout: float) -> Suspended:
    """Run `work(fd)` in a fork beside the caller, who calls `end()` of what this returns."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(work, writing)
    os.close(writing)
    return Suspended(pid, "", reading, timeout)


def suspended(work: Callable[[int], Any], timeout: float) -> Suspended:
    """Run `work(fd)` in a fork until it stops itself; it writes the place to `fd` just before."""
    child = begun(work, timeout)
    found = os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if found is not None and found.si_code == os.CLD_STOPPED:
        child.place = os.read(child.reading, 1 << 16).decode()
    return child


def ending(*_: object) -> None:
    """End in an orderly way when asked to; asked again meanwhile, go on with that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def warm_up(modules: list[str]) -> None:
    """Import, in this process, what a child found itself to need."""
    for name in modules:
        if name.partition(".")[0] not in ("__main__", "__mp_main__") and name not in sys.modules:
            # Some modules only exist while another one makes them.
            with suppress(Exception):
                importlib.import_module(name)


def _child(work: Callable[[int], Any], writing: int) -> None:
    faulthandler.enable()
    # What the parent does when asked to end is not for its children.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        said = json.dumps(work(writing))
    except BaseException:
        said, code = json.dumps({"error": traceback.format_exc()[-4000:]}), 1
    data = said.encode()
    while data:
        data = data[os.write(writing, data) :]
    # Not `sys.exit`: the parent's clean-up is not the child's.
    os._exit(code)


def _listen(pid: int, reading: int, timeout: float, kill_after: float) -> tuple[bytes, bool]:
    said, began = b"", time.monotonic()
    limit = kill_after or timeout
    while True:
        left = began + limit - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            os.close(reading)
            return (b"at a random moment", False) if kill_after else (said, True)
        piece = os.read(reading, 1 << 16)
        if not piece:
            os.close(reading)
            return said, False
        said += piece

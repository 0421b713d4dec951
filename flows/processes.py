"""Start a child process, wait until it answers, and stop it with everything it started.

Each child leads a process group of its own, so that Ctrl-C in a terminal reaches only bhpeft,
which then stops its children in the right order. A group is not enough to find grandchildren
(Prefect gives some flow runs a session of their own), so stopping walks the process tree too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from bhpeft.errors import ServerError

# A proxy set for the internet must not be asked for this machine's own ports.
_direct = build_opener(ProxyHandler({}))

# Our own children by pid, so that they are waited for (else they stay as zombies).
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Child:
    """A process of ours and the log file both its output streams go to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Return the process id, which is its process group's id too."""
        return self.process.pid


def start(name: str, command: Sequence[str], env: Mapping[str, str], log: Path) -> Child:
    """Start `command` in a process group of its own; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[process.pid] = process
    return Child(name, process, log)


def await_answer(child: Child, url: str, timeout: float) -> None:
    """Wait until `url` answers 200.

    Args:
        child: the process that should answer.
        url: its health page.
        timeout: seconds to wait at most.

    Raises:
        ServerError: the process ended, or did not answer in time; carries its log's last lines.
    """
    deadline = time.monotonic() + timeout
    while not answers(url):
        if child.process.poll() is not None:
            raise _did_not_start(child, f"it ended with exit code {child.process.returncode}")
        if time.monotonic() > deadline:
            raise _did_not_start(child, f"no answer at {url} within {timeout:.0f} s")
        time.sleep(0.2)


def answers(url: str, timeout: float = 2.0) -> bool:
    """Say whether `url` answers 200 within `timeout` seconds."""
    try:
        with _direct.open(url, timeout=timeout) as response:
            return bool(response.status == 200)
    except (URLError, OSError, ValueError):
        return False


def stop(pid: int, timeout: float = 5.0) -> None:
    """End the process `pid` and all it started: SIGTERM, then SIGKILL after `timeout` seconds."""
    family = [pid, *descendants(pid)]
    _send(pid, signal.SIGTERM)
    if not _gone([pid], timeout):
        _send(pid, signal.SIGKILL)
    # Children of an ended parent are no longer found by walking down, hence the list from before.
    orphans = [member for member in family if alive(member)]
    for orphan in orphans:
        _send(orphan, signal.SIGTERM)
    if not _gone(orphans, timeout / 2):
        for orphan in orphans:
            _send(orphan, signal.SIGKILL)
        _gone(orphans, 1.0)


def alive(pid: int) -> bool:
    """Say whether the process `pid` runs (a zombie awaiting its parent's wait does not)."""
    if pid in _children and _children[pid].poll() is not None:
        del _children[pid]
    return pid in _parents()


def command_of(pid: int) -> str:
    """Return the command line of the process `pid`, or an empty string if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return _ps("-p", str(pid), "-o", "command=").strip()


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes `pid` started, directly or not."""
    parents = _parents()
    found = [pid]
    for parent in found:  # grows while it is walked
        found.extend(child for child, above in parents.items() if above == parent)
    return found[1:]


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """Return `preferred` if nothing listens there, else a port that is free now."""
    for port in (preferred, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    raise ServerError(f"No port is free on {host}")


def last_lines(log: Path, count: int = 15) -> str:
    """Return the last `count` lines of a log file."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except OSError as problem:
        return f"({problem})"


def _did_not_start(child: Child, found: str) -> ServerError:
    return ServerError(
        f"The {child.name} did not come up",
        found=found,
        expected="a server that answers",
        remedy=f"Its log {child.log} ends with:\n{last_lines(child.log)}",
    )


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        # The whole group where `pid` leads one, so that its workers hear of it at once.
        os.killpg(pid, number) if _leads_group(pid) else os.kill(pid, number)


def _leads_group(pid: int) -> bool:
    return os.getpgid(pid) == pid


def _gone(pids: Sequence[int], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while any(alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _parents() -> dict[int, int]:
    """Return the parent's id of each running process; zombies are left out."""
    if not Path("/proc/self/stat").exists():
        rows = (line.split() for line in _ps("-A", "-o", "pid=,ppid=,stat=").splitlines())
        return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything: read from behind its end.
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.parent.name)] = int(parent)
    return parents


def _ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout

"""Machines on one machine: each a network namespace with an address and a home folder of its own.

A host sees its own folder at the path where every other host sees its own, as a container would,
and reaches the rest by its network alone. Killing a host kills every process in it at once, as a
power cut does. Needs root and iproute2; `able()` says whether they are there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "chaos0"
SUBNET = "10.213.0"


@dataclass(frozen=True)
class Host:
    """One machine.

    Attributes:
        name: its namespace.
        folder: what it sees at `home`.
        home: where it sees it.
    """

    name: str
    folder: Path
    home: Path

    def start(
        self, command: Sequence[str], env: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a program on the host."""
        script = 'mount --bind "$0" "$1" && shift && exec "$@"'
        inside = ["sh", "-c", script, str(self.folder), str(self.home), *command]
        with log.open("wb") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *inside],
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> int:
        """Kill everything on it at once; return how many processes that were."""
        found = _ip("netns", "pids", self.name).split()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return len(found)


def able() -> bool:
    """Say whether hosts can be made here."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("mount"):
        return False
    probe = f"chaos-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode == 0
    if made:
        _ip("netns", "del", probe)
    return made


@contextmanager
def hosts(names: Sequence[str], desk: Path) -> Iterator[list[Host]]:
    """Make hosts, each with a copy of `desk/home`; everything is gone afterwards.

    The machine itself is reached from them at `address()`.
    """
    home = desk / "home"
    made: list[Host] = []
    _clear(names)
    _ip("link", "add", BRIDGE, "type", "bridge")
    try:
        _ip("addr", "add", f"{address()}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        for number, name in enumerate(names, start=11):
            folder = desk / name
            shutil.copytree(home, folder)
            _plug(name, f"{SUBNET}.{number}/24", number)
            made.append(Host(name, folder, home))
        yield made
    finally:
        for host in made:
            host.kill()
        _clear(names)


def address() -> str:
    """Return where hosts find the servers."""
    return f"{SUBNET}.1"


def _plug(name: str, address: str, number: int) -> None:
    outside, inside = f"chaos-v{number}", "eth0"
    # A namespace is gone before its cables are: those of a fleet that just ended may be left.
    subprocess.run(["ip", "link", "del", outside], capture_output=True)
    _ip("netns", "add", name)
    _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
    _ip("link", "set", outside, "master", BRIDGE, "up")
    for step in (
        ("addr", "add", address, "dev", inside),
        ("link", "set", inside, "up"),
        ("link", "set", "lo", "up"),
    ):
        _ip("-n", name, *step)


def _clear(names: Sequence[str]) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout

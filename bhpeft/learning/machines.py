"""Share a round's training among machines: one has the round, the others join it.

    the round's machine    torchrun --node-rank 0 …: rank 0 has the problem, and hands back
    each of the others     `bhpeft join HOST:PORT --node 1`: waits for a training, takes part in it,
                           and waits for the next

Nothing is shared but the network: once all ranks have met, rank 0 sends the problem's files, token
table included, and every other machine puts them into a folder that goes with the training. They
need the base model at the name the stream file gives it, and no landing zone, registry or log-in.

Whoever reaches the port may take part: a training belongs into a private network.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bhpeft.errors import ConfigError, StateError
from bhpeft.learning import handover
from bhpeft.threads import thread_variables

PORT = 29400
CHUNK = 64 * 2**20
# Seconds between two looks whether a training has begun, and that one waits for all to come.
LOOK, MEETING = 1.0, 600
# How long who let the ranks meet may take to answer, and what a rank's last word is called there.
SOON, _WORD = timedelta(seconds=10), "bhpeft/ended/{}"
# Linux's number of the call that returns an interface's address.
_SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class Meeting:
    """Where the machines of a training meet.

    Attributes:
        machines: how many they are.
        endpoint: "HOST:PORT" of the round's machine, as the others reach it.
        seconds: how long those that have come wait for the others.
    """

    machines: int
    endpoint: str
    seconds: int = MEETING

    @property
    def host(self) -> str:
        """Return the round's machine."""
        return self.endpoint.rpartition(":")[0]

    @property
    def port(self) -> int:
        """Return the port it listens on while a training begins and lasts."""
        return int(self.endpoint.rpartition(":")[2])

    def options(self, node: int) -> list[str]:
        """Return what torchrun is told on one of the machines; 0 is the round's."""
        return [
            f"--nnodes={self.machines}",
            f"--node-rank={node}",
            f"--master-addr={self.host}",
            f"--master-port={self.port}",
            f"--rdzv-conf=timeout={self.seconds}",
        ]

    def environment(self) -> dict[str, str]:
        """Return the interface towards the round's machine, for both ways ranks talk."""
        name = interface_towards(self.host)
        return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name} if name else {}


def meeting_at(machines: int) -> Meeting:
    """Return where a round's machine meets others: $BHPEFT_RENDEZVOUS, or its name and `PORT`."""
    told = os.environ.get("BHPEFT_RENDEZVOUS", "")
    return Meeting(machines, checked(told) if told else f"{socket.getfqdn()}:{PORT}")


def checked(endpoint: str) -> str:
    """Return an address with a port.

    Raises:
        ConfigError: it is not HOST or HOST:PORT.
    """
    host, colon, port = endpoint.rpartition(":")
    host, port = (host, port) if colon else (endpoint, str(PORT))
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(
            "The machines of a training have no address to meet at",
            found=repr(endpoint),
            expected=f"HOST or HOST:PORT, such as trainer-0:{PORT}",
            remedy="Correct $BHPEFT_RENDEZVOUS there, or what `bhpeft join` is told here.",
        )
    return f"{host}:{port}"


def interface_towards(host: str) -> str:
    """Return the network interface from which a host is reached; empty where it is not known."""
    try:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            probe.connect((host, 9))  # nothing is sent
            address = probe.getsockname()[0]
            for _, name in socket.if_nameindex():
                if _address_of(probe, name) == address:
                    return name
    except OSError:
        pass
    return ""


def join(meeting: Meeting, node: int, processes: int, threads: int) -> Iterator[int]:
    """Take part in one training after the other; yield how each ended: 0 is well.

    Args:
        meeting: where.
        node: which of the machines this one is, from 1.
        processes: ranks on this machine, one a GPU.
        threads: of the CPU, for each, unless the environment says how many.
    """
    from bhpeft.learning.torchrun import command_of, started

    own = {**os.environ, **thread_variables(threads)}
    while True:
        await_training(meeting)
        with tempfile.TemporaryDirectory(prefix="bhpeft-ranks-") as desk:
            command = command_of(processes, meeting.options(node), Path(desk))
            with started(command, {**meeting.environment(), **own}, sys.stderr) as process:
                yield process.wait()


def await_training(meeting: Meeting) -> None:
    """Wait until the round's machine listens."""
    while True:
        try:
            socket.create_connection((meeting.host, meeting.port), timeout=LOOK).close()
        except OSError:
            time.sleep(LOOK)
        else:
            return


def elsewhere() -> bool:
    """Say whether ranks of this training are on another machine."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1")) > 1


def bring(folder: Path) -> None:
    """Bring the problem in the first machine's folder into that of every other; all ranks call it.

    Raises:
        StateError: what is sent would lie outside of the folder.
    """
    # NCCL carries what is on a GPU; files are not.
    group = dist.new_group(backend="gloo")
    first = dist.get_rank() == 0
    takes = os.environ["GROUP_RANK"] != "0" and os.environ["LOCAL_RANK"] == "0"
    files = handover.files_of(folder) if first else {}
    sizes = json.dumps({name: path.stat().st_size for name, path in files.items()}).encode()
    length = torch.tensor([len(sizes)])
    dist.broadcast(length, 0, group)
    listed = torch.zeros(int(length), dtype=torch.uint8)
    if first:
        listed.copy_(torch.frombuffer(bytearray(sizes), dtype=torch.uint8))
    dist.broadcast(listed, 0, group)
    for name, size in json.loads(listed.numpy().tobytes()).items():
        _carry(files.get(name), inside(folder, name) if takes else None, size, group)
    if takes:
        handover.settle_in(folder)
    dist.barrier(group)


def leave_word(word: str) -> None:
    """Leave this rank's last word where all ranks met, before it closes its connections.

    Raises:
        DistError: nobody is there any more.
    """
    _meeting_place().set(_WORD.format(os.environ["RANK"]), word)


def words_left() -> dict[int, str]:
    """Return the last words that ranks have left, by rank.

    Raises:
        DistError: nobody is there any more.
    """
    place, names = _meeting_place(), map(_WORD.format, range(int(os.environ["WORLD_SIZE"])))
    return {rank: place.get(n).decode() for rank, n in enumerate(names) if place.check([n])}


def _meeting_place() -> TCPStore:
    return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=SOON)


def inside(folder: Path, name: str) -> Path:
    """Return where a file that was sent belongs.

    Raises:
        StateError: its name leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise StateError(
            "A machine that shares a training sent a file that would lie elsewhere",
            found=repr(name),
            expected="a plain name",
            remedy="Find out who listens at the training's address.",
        )
    return folder / path


def _carry(source: Path | None, target: Path | None, size: int, group: dist.ProcessGroup) -> None:
    """Send one file in pieces; whoever has a target writes them down."""
    with _opened(source, "rb") as read, _opened(target, "wb") as write:
        for start in range(0, size, CHUNK):
            piece = torch.empty(min(CHUNK, size - start), dtype=torch.uint8)
            if read is not None:
                read.readinto(piece.numpy())
            dist.broadcast(piece, 0, group)
            if write is not None:
                write.write(piece.numpy().tobytes())


@contextmanager
def _opened(path: Path | None, mode: str) -> Iterator[Any]:
    if path is None:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        yield file


def _address_of(probe: socket.socket, interface: str) -> str:
    import fcntl  # not on Windows, where rounds on one machine run without it

    try:
        asked = struct.pack("256s", interface[:15].encode())
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, asked)[20:24])
    except OSError:  # it has none
        return ""

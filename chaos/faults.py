"""The faults there are, by name: each runs on a stage, once for each seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from chaos import clocks, full_disk, hands, lost_slots, rivals, schedulers, served, store, stories
from chaos.downtime import downtime
from chaos.kills import kills
from chaos.stage import Run, Stage
from chaos.zombies import zombies


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Attributes:
        what: what is done, in one line.
        runs: runs it, once for each seed.
        stories: those it is told in, unless the command line names others.
        stage: where.
        unable: says what is missing to run it here; empty if nothing is.
        variables: those the program must have been started with.
    """

    what: str
    runs: Callable[[Stage, Iterable[int]], Iterator[Run]]
    stories: tuple[str, ...] = stories.USUAL
    stage: Callable[[list[str]], Stage] = Stage
    unable: Callable[[], str] = str
    variables: Callable[[], dict[str, str]] = dict


SERVERS = {"mlflow": "MLflow", "prefect": "Prefect's server", "postgres": "PostgreSQL"}
ROUNDS = ("three rounds", "bad batches")
FAULTS = {
    "kills": Fault(
        "a worker is killed (`kill -9`) at a place, perhaps again on the way back", kills
    ),
    "zombies": Fault(
        "a worker is suspended at a place and wakes when others have gone on", zombies
    ),
    "full_disk": Fault(
        "the disk is full for two attempts (ENOSPC, on a disk that small), then there is room",
        full_disk.full_disk,
        unable=full_disk.unable,
    ),
    "hands": Fault(
        "the alias is moved, or taken away, by hand in the middle of a round", hands.hands, ROUNDS
    ),
    "rivals": Fault(
        "two workers learn the stream at once, and no lock is between them", rivals.rivals, ROUNDS
    ),
    "clocks": Fault(
        "every worker's clock is wrong, by a second to a hundred days, and two of them die",
        clocks.clocks,
        unable=clocks.unable,
        variables=clocks.variables,
    ),
    "store": Fault(
        "the object store is slow, errs (408, 500, 503), or answers by halves or never",
        partial(store.store, day=store.SPOILT),
        ROUNDS,
        store.InBucket,
    ),
    "stalls": Fault(
        "the object store keeps its clients waiting for longer than they have patience",
        partial(store.store, day=store.STALLED),
        ROUNDS,
        store.InBucket,
    ),
    "schedulers": Fault(
        "two schedulers watch the stream at once: two of Prefect's servers that know nothing of "
        "each other, or one twice",
        schedulers.schedulers,
        ("two rounds",),
        served.Served,
        served.unable,
    ),
    "lost_slots": Fault(
        "Prefect's server dies in the middle of taking or giving back a lock, whose slot is then "
        "taken though nobody holds it, and is started again",
        lost_slots.lost_slots,
        ("two rounds",),
        served.Served,
        served.unable,
    ),
    **{
        f"{server}_killed": Fault(
            f"{name} is killed in the middle of a watch (`kill -9`) and started again, at once or "
            "up to 45 s later",
            partial(downtime, server=server),
            ("two rounds",),
            served.Served,
            served.unable,
        )
        for server, name in SERVERS.items()
    },
}

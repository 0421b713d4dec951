"""A process that lost its lock without dying does not undo what came after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import pytest

from bhpeft.registry import Registry

from .conftest import Learn

# Promotes v2 and stops itself before a call about an alias, or after one about none.
ZOMBIE = """
import os, signal, sys
from bhpeft.errors import StaleParent
from bhpeft.registry import Registry

uri, stream, call, alias = sys.argv[1:]
registry = Registry(uri)

class Suspended:
    def __init__(self, client):
        self.client, self.slept = client, False
    def __getattr__(self, name):
        found = getattr(self.client, name)
        def ask(*args, **kwargs):
            now = name == call and alias in (*args, "") and not self.slept
            self.slept = self.slept or now
            if now and alias:
                os.kill(os.getpid(), signal.SIGSTOP)
            answer = found(*args, **kwargs)
            if now and not alias:
                os.kill(os.getpid(), signal.SIGSTOP)
            return answer
        return ask if callable(found) else found

registry.connection.__dict__["client"] = Suspended(registry.connection.client)
try:
    move = registry.promote(stream, 2, expected_parent=1, by="zombie", reason="late")
    print(move.title)
except StaleParent as problem:
    print("StaleParent", problem.message)
"""


class Suspendable:
    """The zombie's process, waited for until it has stopped itself."""

    def __init__(self, registry: Registry, stream: str, call: str, alias: str):
        command = [sys.executable, "-c", ZOMBIE, registry.connection.uri, stream, call, alias]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def wake(self) -> str:
        self.process.send_signal(signal.SIGCONT)
        said, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0
        return said.strip()


def numbers(registry: Registry, stream: str) -> tuple[int | None, int | None]:
    found = registry.champion(stream), registry.previous(stream)
    champion, previous = (None if v is None else v.number for v in found)
    return champion, previous


@pytest.mark.parametrize(
    ("call", "alias"),
    [
        ("create_run", ""),
        ("set_registered_model_alias", "previous"),
        ("set_registered_model_alias", "champion"),
    ],
    ids=["after its entry", "before previous", "before champion"],
)
def test_a_zombie_that_wakes_late_leaves_the_champion_alone(
    registry: Registry, stream: str, learn: Learn, call: str, alias: str
) -> None:
    """Its lease has run out; another worker finished its move and promoted what came next."""
    learn("b1", None)
    learn("b2", 1, move=False)
    zombie = Suspendable(registry, stream, call, alias)
    registry.repair(stream, lock=nullcontext)
    learn("b3", 2)
    assert numbers(registry, stream) == (3, 2)

    assert zombie.wake() == "promote v1 → v2"

    assert numbers(registry, stream) == (3, 2)
    titles = [move.title for move in registry.history(stream)]
    assert titles == ["promote none → v1", "promote v1 → v2", "promote v2 → v3"]
    assert registry.repair(stream) == []


def test_a_zombie_that_wakes_before_its_move_began_is_stale(
    registry: Registry, stream: str, learn: Learn
) -> None:
    """It had not even opened its entry of the log; its batch was learned by another meanwhile."""
    learn("b1", None)
    learn("b2", 1, move=False)
    zombie = Suspendable(registry, stream, "get_model_version", stream)
    learn("b2", 1)
    assert numbers(registry, stream) == (3, 1)

    assert zombie.wake().startswith("StaleParent")

    assert numbers(registry, stream) == (3, 1)
    assert registry.version(stream, 2).decision == "stale"
    assert registry.repair(stream) == []

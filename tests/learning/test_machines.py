"""A training shared by machines that share nothing but a network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bhpeft.errors import ConfigError, MachinesAbsent, StateError
from bhpeft.learning.handover import (
    KEPT,
    ROWS,
    files_of,
    hand_over,
    settle_in,
    taken_back,
    taken_over,
)
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.machines import (
    PORT,
    Meeting,
    checked,
    inside,
    interface_towards,
    meeting_at,
)
from bhpeft.learning.ranks import ALONE
from bhpeft.learning.torchrun import Torchrun, _explained, command_of, started
from chaos.hosts import able
from flows.processes import free_port
from tests import tiny
from tests.learning import short_rank
from tests.learning.test_checkpoint import same
from tests.learning.test_torchrun import base, problem

__all__ = ["base", "problem"]


@pytest.mark.parametrize(
    ("said", "found"), [("trainer-0", "trainer-0:29400"), ("10.0.0.7:1234", "10.0.0.7:1234")]
)
def test_an_address_has_a_port_in_the_end(said: str, found: str) -> None:
    assert checked(said) == found


@pytest.mark.parametrize("said", [":29400", "trainer-0:", "trainer-0:port", "trainer-0:99999"])
def test_what_is_no_address_is_refused(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BHPEFT_RENDEZVOUS", said)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        meeting_at(2)


def test_a_machine_says_where_it_is_met_unless_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BHPEFT_RENDEZVOUS", raising=False)
    assert meeting_at(3) == Meeting(3, f"{socket.getfqdn()}:29400")
    monkeypatch.setenv("BHPEFT_RENDEZVOUS", "trainer-0")
    assert meeting_at(3).host == "trainer-0"


@pytest.mark.skipif(sys.platform != "linux", reason="asks as Linux answers")
def test_ranks_talk_over_the_interface_that_leads_to_the_others() -> None:
    """Many machines resolve their own name to 127.0.1.1, where no other finds them."""
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no-such-machine.invalid") == ""


@pytest.mark.parametrize("name", ["/etc/passwd", "../run.sh", "start/../../x", ""])
def test_a_file_that_is_sent_lies_in_the_trainings_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="elsewhere"):
        inside(tmp_path, name)


def test_a_problem_that_was_carried_is_the_same_one(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    """Its rows, and what an interrupted attempt had saved, are where it now is."""
    here, there, kept = tmp_path / "here", tmp_path / "there", tmp_path / "saved"
    kept.mkdir()
    (kept / "1.safetensors").write_bytes(b"as it was")
    lesson = problem()
    hand_over(lesson, tiny.generator(4), here, shard=False, kept=kept)
    for name, path in files_of(here).items():
        target = inside(there, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    settle_in(there)
    read, generator, saved = taken_over(there, ALONE)
    assert read.rows.path.parent == there / ROWS
    assert read.rows.identity == lesson.rows.identity
    assert generator.get_state().equal(tiny.generator(4).get_state())
    assert saved == there / KEPT
    assert (saved / "1.safetensors").read_bytes() == b"as it was"


@pytest.mark.slow
def test_two_machines_learn_what_two_processes_of_one_do(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    """Bit for bit; the other machine has a desk of its own and is there for the next training."""
    meeting = Meeting(2, f"127.0.0.1:{free_port()}", seconds=120)
    words = [sys.executable, "-c", "from bhpeft.cli import app; app()", "join", meeting.endpoint]
    desks = tmp_path / "other"
    desks.mkdir()
    env = {**os.environ, "TMPDIR": str(desks)}
    with (tmp_path / "log").open("wb") as log:
        other = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        source, alone = tiny.generator(), tiny.generator()
        found = Torchrun(1, meeting=meeting)(problem(), source, None, tmp_path / "kept")
        deadline = time.monotonic() + 30
        while "A training has ended." not in (tmp_path / "log").read_text():
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert other.poll() is None
        assert same(found, Torchrun(2)(problem(), alone, None, tmp_path / "kept too"))
        assert source.get_state().equal(alone.get_state())
    finally:
        other.terminate()
        assert other.wait(timeout=60) == 0
    assert list(desks.iterdir()) == [], "what was sent goes with the training"


@pytest.mark.slow
def test_a_shortage_on_a_machine_that_joined_is_named_where_the_round_is(tmp_path: Path) -> None:
    """It has no file of ours; without a word from it, all there is to see is a lost connection."""
    meeting = Meeting(2, f"127.0.0.1:{free_port()}", seconds=120)
    desks, log = [tmp_path / "round", tmp_path / "other"], tmp_path / "log"
    with ExitStack() as stack:
        out = stack.enter_context(log.open("wb"))
        running = []
        for node, desk in enumerate(desks):
            desk.mkdir()
            command = command_of(1, meeting.options(node), desk)
            command[command.index("--module") + 1] = short_rank.__name__
            environment = {**os.environ, **meeting.environment()}
            running.append(stack.enter_context(started(command, environment, out)))
        codes = [process.wait(timeout=120) for process in running]
    assert all(codes)
    found = _explained(desks[0], codes[0], log)
    assert type(found) is MemoryError, found
    assert "Tried to allocate 2 GiB" in str(found)


@contextmanager
def two_networks() -> Iterator[tuple[list[str], list[str], str]]:
    """Make two network namespaces with a cable between them; yield how to run something in each."""
    names, cable = [f"bh-{os.getpid()}-{end}" for end in "ab"], f"bh{os.getpid() % 10**8}"
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cable, "netns", names[0], "type", "veth", "peer", "e1", "netns", names[1])
        ip("-n", names[0], "link", "set", cable, "name", "e0")
        for number, name in enumerate(names):
            ip("-n", name, "addr", "add", f"10.214.0.{number + 1}/24", "dev", f"e{number}")
            for link in ("lo", f"e{number}"):
                ip("-n", name, "link", "set", link, "up")
        first, second = (["ip", "netns", "exec", name] for name in names)
        yield first, second, "10.214.0.1"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not able(), reason="needs root and iproute2 for network namespaces")
def test_machines_meet_over_a_network_and_not_at_their_own_names(
    problem: Callable[..., Lesson], tmp_path: Path
) -> None:
    """In each namespace this machine's name leads nowhere; ranks find each other all the same."""
    hand_over(problem(), tiny.generator(), tmp_path / "desk", shard=False, kept=None)
    lead = "from tests.learning.test_machines import lead; lead()"
    with two_networks() as (here, there, address):
        meeting = Meeting(2, f"{address}:{PORT}", seconds=120)
        words = [sys.executable, "-c", "from bhpeft.cli import app; app()", "join"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        other = subprocess.Popen([*there, *words, meeting.endpoint], **quiet)
        try:
            asked = [sys.executable, "-c", lead, str(tmp_path / "desk"), meeting.endpoint]
            subprocess.run([*here, *asked], check=True, timeout=240)
        finally:
            other.terminate()
            other.wait(timeout=60)
    found = taken_back(tmp_path / "desk", tiny.generator())
    assert found.curve[-1]["nll"] < found.curve[0]["nll"]


def lead() -> None:
    """Run the problem in a folder as the machine that has the round."""
    Torchrun(1, meeting=Meeting(2, sys.argv[2], seconds=120))._run(Path(sys.argv[1]), None)


@pytest.mark.slow
def test_a_machine_that_does_not_come_is_named_and_no_batch_is_blamed(
    problem: Callable[..., Lesson],
) -> None:
    """It is no `FitError`, which three times in a row would park the batch."""
    meeting = Meeting(2, f"127.0.0.1:{free_port()}", seconds=3)
    with pytest.raises(MachinesAbsent, match="1 of 2"):
        Torchrun(1, meeting=meeting)(problem(), tiny.generator())


def test_torchrun_is_told_the_same_on_every_machine_but_its_number() -> None:
    meeting = Meeting(3, "trainer-0:29400")
    first, last = (command_of(4, meeting.options(node), Path("/desk")) for node in (0, 2))
    assert [word for word in first if word not in last] == ["--node-rank=0"]
    assert [word for word in last if word not in first] == ["--node-rank=2"]
    assert "--nproc-per-node=4" in first

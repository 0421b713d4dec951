"""A round may stop anywhere; what is in use stays in use, and what waits still waits."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bhpeft.errors import Diverged, OutOfMemory, RegistryError, RegistryUnreachable
from bhpeft.learning.predict import Predictor
from bhpeft.operation import Approval
from bhpeft.registry import Registry
from bhpeft.registry.move_log import MoveLog
from bhpeft.rounds import find_parent, learn, pending, turn
from tests.rounds.conftest import NEVER, Chain, Steps, begin

REFUSES = {"gates": NEVER}
HOLDS = {"approval": Approval(required=True)}


def untrained() -> Steps:
    """A runner for a round that has nothing left to compute."""
    return Steps(stop="train_candidate", problem=AssertionError("it trains again"))


def test_a_crash_before_the_promotion_is_finished_by_the_next_round_without_training(
    chain: Chain,
) -> None:
    """The version was registered as promoted and the alias had not moved yet."""
    batch = chain.deliver("b1")
    with pytest.raises(RuntimeError, match="died before conclude"):
        chain.learn(batch, Steps(stop="conclude"))
    assert chain.champion is None
    assert chain.waiting == ["b1"]
    outcome = chain.learn(batch, untrained())
    assert (outcome.decision, outcome.version, outcome.prior_version) == ("promoted", 1, None)
    assert outcome.metrics["holdout/rows"] > 0
    champion = chain.champion
    assert champion is not None
    assert (champion.number, len(chain.versions), chain.waiting) == (1, 1, [])


def test_an_alias_taken_away_by_hand_makes_no_batch_look_new(chain: Chain) -> None:
    """Without a champion all is pending; the round puts the alias back, and has learned it already.

    It is also so for an ancestor's batch, which the version that is champion again did not learn.
    """
    batches = [chain.deliver(f"b{day}", day=day) for day in (1, 2)]
    for batch in batches:
        chain.learn(batch)
    client = chain.registry.connection.client
    client.delete_registered_model_alias(chain.stream.name, "champion")
    assert chain.waiting == ["b1", "b2"]
    outcome = chain.learn(batches[0], untrained())
    assert (outcome.decision, outcome.version, outcome.prior_version) == ("promoted", 1, None)
    champion = chain.champion
    assert champion is not None
    assert (champion.number, len(chain.versions), chain.waiting) == (2, 2, [])


def test_the_next_batch_also_finishes_what_a_crash_left_and_continues_from_it(
    chain: Chain,
) -> None:
    first, second = chain.deliver("b1", day=1), chain.deliver("b2", day=2)
    with pytest.raises(RuntimeError):
        chain.learn(first, Steps(stop="conclude"))
    steps = Steps(stop="prepare")
    with pytest.raises(RuntimeError):
        chain.learn(second, steps)
    assert steps.results["fetch_parent"].version.number == 1
    assert chain.waiting == ["b2"]


def test_a_crash_before_a_refusal_is_logged_is_finished_without_training(chain: Chain) -> None:
    chain = chain.with_gates(NEVER)
    batch = chain.deliver("b1")
    with pytest.raises(RuntimeError):
        chain.learn(batch, Steps(stop="conclude"))
    outcome = chain.learn(batch, untrained())
    assert (outcome.decision, outcome.version) == ("refused", 1)
    assert [move.title for move in chain.registry.history(chain.stream.name)] == ["refuse v1"]
    assert chain.champion is None


@pytest.mark.parametrize(
    ("problem", "status", "named"),
    [
        (Diverged("NaN"), "FAILED", "Diverged"),
        (MemoryError(), "FAILED", "OutOfMemory"),
        (KeyboardInterrupt(), "KILLED", "KeyboardInterrupt"),
    ],
    ids=["NaN loss", "out of memory", "Ctrl-C"],
)
def test_a_crash_during_training_leaves_champion_and_batch_and_says_so_on_the_run(
    chain: Chain, problem: BaseException, status: str, named: str
) -> None:
    batch = chain.deliver("b1")
    book = chain.book
    with pytest.raises((type(problem), OutOfMemory)):
        chain.learn(batch, Steps(stop="train_candidate", problem=problem))
    assert chain.book == book
    assert chain.waiting == ["b1"]
    (run,) = chain.runs
    assert run.info.status == status
    assert run.data.tags["bhpeft.error"].startswith(named)


def test_a_loss_that_diverges_for_real_leaves_the_batch_pending_and_no_version(
    chain: Chain,
) -> None:
    """The named error of the fit, through the whole round."""
    wild = chain.with_learning(plan={"learning_rate": 1e30, "batch_size": 8})
    batch = chain.deliver("b1")
    with pytest.raises(Diverged, match="the batch stays pending"):
        wild.learn(batch)
    assert (chain.waiting, chain.versions) == (["b1"], [])


def test_whichever_step_dies_the_champion_and_its_files_stay(chain: Chain) -> None:
    first, second = chain.deliver("b1", day=1), chain.deliver("b2", day=2)
    chain.learn(first)
    book = chain.book
    for stop in ("fetch_parent", "prepare", "register"):
        with pytest.raises(RuntimeError, match=f"died before {stop}"):
            chain.learn(second, Steps(stop=stop))
        assert chain.book == book
        assert chain.waiting == ["b2"]
    assert chain.state(1).spec.absorbed[0].batch_id == "b1"


def test_a_registry_that_does_not_answer_is_one_line_that_names_it(chain: Chain) -> None:
    """Known within seconds; the batch stays pending."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    batch, nobody = chain.deliver("b1"), Registry(address)
    for ask in (
        lambda: learn(chain.stream, batch, nobody, run=Steps()),
        lambda: pending(chain.stream, nobody),
    ):
        with pytest.raises(RegistryUnreachable, match=r"does not answer.*stays pending") as caught:
            ask()
        assert "\n" not in str(caught.value)
        assert address in str(caught.value)
    assert chain.waiting == ["b1"]


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Leave no block free on the folder's file system."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue
        yield
    finally:
        filler.unlink()


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Refuse writes beyond the first 40,000 bytes of any file, as a quota would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


Shortage = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def scarce(tmp_path: Path) -> Iterator[tuple[Path, Shortage]]:
    """A folder, and a scope in which it has no room: a disk of 24 MB of its own, filled up.

    Where no file system may be mounted, a limit on the size of files does what a quota would.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        yield folder, no_file_may_grow
        return
    try:
        yield folder, partial(full_disk, folder)
    finally:
        # Lazily: the registry's connections are still open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_no_room_at_registration_leaves_the_champion_in_use_and_the_batch_pending(
    scarce: tuple[Path, Shortage], tmp_path: Path
) -> None:
    """Under the database and the files alike; with room again the round just runs."""
    folder, shortage = scarce
    chain = begin(Registry(f"sqlite:///{folder / 'mlflow.db'}"), tmp_path, "no-room")
    first, second = chain.deliver("b1", day=1), chain.deliver("b2", day=2)
    chain.learn(first)

    class Short(Steps):
        def __call__(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with shortage() if step.__name__ == "register" else nullcontext():
                return super().__call__(step, *args, **kwargs)

    with pytest.raises(RegistryError) as caught:
        chain.learn(second, Short())
    assert "\n" not in str(caught.value)
    champion = chain.champion
    assert champion is not None
    assert (champion.number, chain.waiting) == (1, ["b2"])
    files = chain.registry.download(champion, chain.desk / "after")
    assert len(Predictor.load(files).predict(["a lovely film"])) == 1
    outcome = chain.learn(second)
    assert (outcome.decision, outcome.prior_version) == ("promoted", 1)
    assert chain.waiting == []


def test_a_quota_refuses_what_would_grow_a_file_beyond_it(tmp_path: Path) -> None:
    """The stand-in for a full disk is one."""
    with no_file_may_grow(), pytest.raises(OSError, match="too large"):
        (tmp_path / "file").write_bytes(b"x" * 50_000)
    (tmp_path / "file").write_bytes(b"x" * 50_000)


@pytest.mark.parametrize(("rules", "title"), [(REFUSES, "refuse v1"), (HOLDS, "hold v1")])
def test_a_decision_that_a_crash_kept_out_of_the_log_is_logged_though_nothing_is_pending(
    chain: Chain, rules: dict[str, Any], title: str
) -> None:
    """No round would come to mend it, so whoever looks is told.

    It is logged in the name of who ran the round, who may be the one who must not approve it.
    """
    chain = chain.changed(**rules)
    with pytest.raises(RuntimeError):
        chain.learn(chain.deliver("b1"), Steps(stop="conclude"))
    assert unfinished(chain)
    _, mended = find_parent(chain.stream, chain.registry, nullcontext)
    assert [(move.title, move.who) for move in mended] == [(title, "a test")]
    assert chain.registry.history(chain.stream.name) == mended
    assert not unfinished(chain)


def test_a_move_cut_off_after_the_last_batch_does_not_wait_for_the_next_one(chain: Chain) -> None:
    """The champion moved and its entry is open: the batch is learned, so nothing is pending."""
    chain.learn(chain.deliver("b1"))
    log = MoveLog(chain.registry.connection)
    log.open(replace(chain.registry.history(chain.stream.name)[-1], kind="repair"))
    assert unfinished(chain)
    find_parent(chain.stream, chain.registry, nullcontext)
    assert not unfinished(chain)


def unfinished(chain: Chain) -> bool:
    found = turn(chain.stream, chain.registry)
    assert found.batches == ()
    return found.unfinished

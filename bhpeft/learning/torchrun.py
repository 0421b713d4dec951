"""Train on several processes: start torchrun, watch it, take what was learned back.

The round itself stays one process: it alone reads the registry and writes to it, and what it hands
over is a learning problem. Only `fit` runs on every rank. So a rank that dies ends a training, not
a round's bookkeeping, and whoever calls this cannot tell it from `fit`. Where other machines take
part, this one starts its own processes only, and meets theirs (`bhpeft.learning.machines`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator

from bhpeft import errors
from bhpeft.errors import BhpeftError, MachinesAbsent, RanksFailed
from bhpeft.learning import rank
from bhpeft.learning.fit import Fitted, Watch
from bhpeft.learning.handover import hand_over, taken_back
from bhpeft.learning.lesson import Lesson
from bhpeft.learning.machines import Meeting
from bhpeft.models.adapted import AdaptedModel

# Seconds that ranks are given to end when they are asked to.
PATIENCE = 30.0


@dataclass(frozen=True)
class Torchrun:
    """`fit` on several processes, one a GPU where there are GPUs.

    Attributes:
        processes: R, or those on this machine.
        shard: whether they share the frozen base's weights too.
        meeting: where those of other machines join, if any do.
    """

    processes: int
    shard: bool = False
    meeting: Meeting | None = None

    def __call__(
        self,
        lesson: Lesson,
        generator: Generator,
        watch: Watch | None = None,
        kept: Path | None = None,
    ) -> Fitted:
        """Learn one batch.

        Raises:
            FitError: as for `fit`, from whichever rank; `RanksFailed` where one ended otherwise.
            MachinesAbsent: not all machines came.
            MemoryError: a rank had too little.
        """
        with (
            tempfile.TemporaryDirectory(prefix="bhpeft-ranks-") as name,
            _off_the_gpu(lesson.model),
        ):
            desk = Path(name)
            hand_over(lesson, generator, desk, shard=self.shard, kept=kept)
            self._run(desk, watch)
            return taken_back(desk, generator)

    def _run(self, desk: Path, watch: Watch | None) -> None:
        where = self.meeting.options(0) if self.meeting else ["--standalone"]
        command, log = command_of(self.processes, where, desk), desk / "log"
        with log.open("wb") as out, started(command, self._environment(), out) as process:
            heard = None
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=rank.EVERY)
                said = _progress(desk)
                if watch and said and said != heard:
                    watch(*said)
                    heard = said
        if process.returncode:
            raise _explained(desk, process.returncode, log)

    def _environment(self) -> Mapping[str, str]:
        threads = max(1, torch.get_num_threads() // self.processes)
        # Ranks of one machine meet on it, whatever its name resolves to.
        own = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        own = self.meeting.environment() if self.meeting else own
        return {**own, **os.environ, "OMP_NUM_THREADS": str(threads)}


def command_of(processes: int, where: Sequence[str], desk: Path) -> list[str]:
    """Return the command that starts ranks on this machine, at a problem or where one will be."""
    run = [sys.executable, "-m", "torch.distributed.run", *where]
    # By default torchrun's folder of logs would stay in the system's, one a training.
    own = [f"--nproc-per-node={processes}", f"--log-dir={desk / 'ranks'}"]
    return [*run, *own, "--module", rank.__name__, str(desk)]


@contextmanager
def started(
    command: list[str], environment: Mapping[str, str], out: object
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command whose processes end with this one: they watch their standard input."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        command, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.stdin.close()
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _off_the_gpu(model: AdaptedModel) -> Iterator[None]:
    """Leave the GPU to the ranks: within the block this process's model waits in main memory."""
    place = model.device
    if place.type != "cuda":
        yield
        return
    model.to("cpu")
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        model.to(place)


def _progress(desk: Path) -> tuple[int, int] | None:
    try:
        done, total = json.loads((desk / rank.PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return done, total


def _explained(desk: Path, code: int, log: Path) -> Exception:
    """Return the error that ended the training: the first that one of us raised, if any did.

    When one rank ends the others lose their connection; what they say of that explains nothing.
    """
    files = sorted(desk.glob("error-*.json"), key=lambda file: file.stat().st_mtime_ns)
    said = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for one in said:
        kind = getattr(errors, one["kind"], None)
        if one["parts"] and isinstance(kind, type) and issubclass(kind, BhpeftError):
            return kind(one["parts"].pop("what"), **one["parts"])
    for one in said:
        if one["kind"] == "MemoryError" or "memory" in one["text"]:
            return MemoryError(one["text"])
    if not said and (came := re.search(r"(\d+)/(\d+) clients joined", log.read_text())):
        return MachinesAbsent(
            "Not all machines that share this training came",
            found=f"{came[1]} of {came[2]}",
            expected="each of them, within the time they wait for each other",
            remedy="See that `bhpeft join` runs on the others and reaches this one; the batch "
            "stays pending and is not blamed.",
        )
    words = said[0]["text"] if said else _ended(log)
    return RanksFailed(
        "A process of the training ended without a posterior",
        found=f"exit code {code}: {words}"[:300],
        expected="all of them to end together",
        remedy="Where the system killed it, it ran out of memory: lower "
        "learning.plan.batch_size or compute.processes; the batch stays pending.",
    )


def _ended(log: Path) -> str:
    """Return which rank torchrun saw end first, and its exit code; a negative one is a signal."""
    text = log.read_text(encoding="utf-8", errors="replace")
    first = re.search(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", text)
    return f"rank {first[2]} ended with {first[1]}" if first else text.strip()[-200:]

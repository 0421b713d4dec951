from __future__ import annotations

import gc
import os
import signal

import pytest

from bhpeft.cli.terminal import interruptible, unswept


def test_nothing_is_swept_while_a_command_reads_and_all_is_as_before_afterwards() -> None:
    swept: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        swept.append(phase)

    gc.callbacks.append(note)
    try:
        with unswept():
            read = [[number] for number in range(50_000)]
            assert not swept
        assert gc.isenabled()
        read += [[number] for number in range(50_000)]
        assert swept
    finally:
        gc.callbacks.remove(note)


def test_sigterm_ends_a_scope_as_ctrl_c_does_so_that_what_it_started_is_stopped() -> None:
    before, stopped = signal.getsignal(signal.SIGTERM), []

    def told_to_end() -> None:
        with interruptible():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            finally:
                stopped.append(True)

    with pytest.raises(KeyboardInterrupt):
        told_to_end()
    assert stopped
    assert signal.getsignal(signal.SIGTERM) == before

from __future__ import annotations

import gc

from bhpeft.cli.terminal import unswept


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

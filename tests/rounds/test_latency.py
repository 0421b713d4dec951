"""How long a candidate's pass is said to take, beside neighbours that take the processor."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count

from bhpeft.rounds.trial import ALIKE, MOST_PASSES, TIMED_PASSES, fastest


def taking(first: float, later: float, slow: int) -> tuple[Callable[[], None], list[float]]:
    """Return a pass that takes `first` seconds so many times, then `later`; and those it took."""
    number, taken = count(), []

    def run() -> None:
        taken.append(first if next(number) < slow else later)
        time.sleep(taken[-1])

    return run, taken


def test_a_candidate_disturbed_in_its_first_passes_is_as_fast_as_it_is() -> None:
    candidate, _ = taking(0.1, 0.02, slow=TIMED_PASSES + 1)
    champion, _ = taking(0.02, 0.02, slow=0)
    found = fastest({"": candidate, "champion_": champion})
    assert found[""] < 0.05


def test_ways_that_are_alike_are_not_measured_longer() -> None:
    passes = [taking(0.2, 0.2, slow=0) for _ in range(2)]
    fastest({str(at): run for at, (run, _) in enumerate(passes)})
    assert [len(taken) for _, taken in passes] == [TIMED_PASSES] * 2


def test_one_that_is_slower_stays_so() -> None:
    (slow, taken), (quick, _) = taking(0.04, 0.04, slow=0), taking(0.01, 0.01, slow=0)
    found = fastest({"slow": slow, "quick": quick})
    assert len(taken) == MOST_PASSES
    assert found["slow"] > ALIKE * found["quick"]

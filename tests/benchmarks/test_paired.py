from __future__ import annotations

from benchmarks.budget import Budget
from benchmarks.machine import machine
from benchmarks.paired import ratios, row

TURNS = Budget(seconds=0, least=9, most=9)


def spin(turns: int) -> int:
    return sum(i * i for i in range(turns))


def test_a_way_that_does_three_times_as_much_takes_three_times_as_long() -> None:
    """The first way is what the others are measured in."""
    found = ratios({"once": lambda: spin(200_000), "thrice": lambda: spin(600_000)}, TURNS)
    assert found["once"] == [1.0] * 9
    figure = row("thrice ÷ once", found["thrice"], target=4)
    assert 2 < figure.low <= figure.ratio <= figure.high < 4.5
    assert figure.target == 4


def test_a_row_holds_the_median_and_the_quartiles() -> None:
    figure = row("x", [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (figure.low, figure.ratio, figure.high) == (2.0, 3.0, 4.0)


def test_the_machine_says_what_figures_depend_on() -> None:
    found = machine()
    assert found["threads"]
    assert {"torch", "transformers", "peft", "bhpeft"} <= set(found["versions"])

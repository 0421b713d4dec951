"""How long a round goes on, and what a step is made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bhpeft.learning import course
from bhpeft.learning.course import Course
from bhpeft.learning.descent import Descent
from bhpeft.learning.fit import fit
from bhpeft.learning.variants import BH_PEFT
from bhpeft.methods import architecture_of
from bhpeft.methods.attention import use_attention
from bhpeft.models.transfer import _ahead
from tests import tiny
from tests.learning import problems

POINT = BH_PEFT.point()


def test_two_minibatches_make_the_step_of_one_as_large_as_both(tmp_path: Path) -> None:
    """Each row counts the same, however the rows are cut; a point estimate has no draw to differ.

    Twenty rows and four, so that the mean of the two means would be another one.
    """
    whole = next(iter(problems.table(tmp_path).minibatches(24, tiny.generator())))
    moved = []
    for cuts in ([(0, 24)], [(0, 20), (20, 24)]):
        lesson = problems.lesson(tmp_path, variant=POINT, warmup=0.0)
        descent = Descent.begin(lesson, tiny.generator())
        for begin, end in cuts:
            descent.gather({name: tensor[begin:end] for name, tensor in whole.items()})
        descent.move(10)
        moved.append(descent.point.grad)
        assert descent.steps == 1
    assert float(moved[0].abs().max()) > 1e-3
    torch.testing.assert_close(moved[1], moved[0], rtol=1e-4, atol=1e-7)


def test_each_minibatch_of_a_step_has_a_draw_of_its_own(tmp_path: Path) -> None:
    """Gradients of the mean and of rho are averaged over the draws, weighted by rows."""
    state = problems.later(problems.start(problems.model()))
    whole = next(iter(problems.table(tmp_path).minibatches(24, tiny.generator())))
    parts = [{k: t[b:e] for k, t in whole.items()} for b, e in ((0, 16), (16, 24))]
    lesson = problems.lesson(tmp_path, state=state, first=False)
    together, apart = (Descent.begin(lesson, tiny.generator(4)) for _ in range(2))
    alone = []
    for part in parts:
        together.gather(part)
        apart.gather(part)
        alone.append(apart._gathered)
        apart._gathered = None
    for name in ("nll", "mean", "rho", "point"):
        first, second = (getattr(one, name) for one in alone)
        expected = (16 * first + 8 * second) / 24
        torch.testing.assert_close(getattr(together._gathered, name), expected)


def test_accumulation_takes_fewer_steps_and_sees_every_row(tmp_path: Path) -> None:
    """Twenty-four rows in eights make three minibatches: a step of two and one of one."""
    lesson = problems.lesson(tmp_path, accumulate=2, epochs=4)
    heard: list[tuple[int, int]] = []
    found = fit(lesson, tiny.generator(), lambda *at: heard.append(at))
    assert lesson.steps_an_epoch == 2
    assert heard == [(step, 8) for step in range(1, 9)]
    assert found.steps == 8


def test_a_round_ends_once_the_loss_has_stopped_falling(tmp_path: Path) -> None:
    """And the rates are down to zero when it does."""
    plan = {"epochs": 60, "learning_rate": 1e-2, "variant": POINT, "rows": 16}
    full = fit(problems.lesson(tmp_path, **plan), tiny.generator())
    short = fit(problems.lesson(tmp_path, **plan, patience=3), tiny.generator())
    assert (full.epochs, full.settled) == (60, False)
    assert short.settled
    assert 4 < short.epochs < 40
    assert short.steps == 2 * short.epochs
    assert short.curve[-1]["nll"] < 0.1
    assert short.curve[-1]["learning_rate"] < 0.6 * short.curve[-2]["learning_rate"]


def test_a_loss_that_falls_is_waited_for(tmp_path: Path) -> None:
    found = fit(
        problems.lesson(tmp_path, variant=POINT, epochs=6, learning_rate=1e-2, patience=2),
        tiny.generator(),
    )
    assert (found.epochs, found.settled) == (6, False)


def test_a_round_never_ends_before_sigma_can_have_arrived(tmp_path: Path) -> None:
    """With steps too small for the loss to fall at all, only rho's way is what is waited for."""
    plan = {"epochs": 40, "learning_rate": 1e-6, "rho_learning_rate": 0.15, "patience": 1}
    lesson = problems.lesson(tmp_path, **plan)
    found = fit(lesson, tiny.generator())
    assert found.settled
    assert found.travel_met is True
    begun = Course(lesson, 40)
    descent = Descent.begin(lesson, tiny.generator())
    for minibatch in lesson.rows.minibatches(8, tiny.generator()):
        descent.step(minibatch, begun.steps)
    begun.judge(1, descent)
    needed = begun._needed
    assert needed > 1.0
    rates = [0.15 * lesson.plan.rate(step, 120) for step in range(found.steps)]
    begun_to_end = found.steps - 3
    falling = [rates[begun_to_end] * (3 - step) / 3 for step in range(3)]
    assert sum(rates[:begun_to_end]) + sum(falling) >= needed
    # An epoch earlier it would not have arrived.
    earlier = found.steps - 6
    falling = [rates[earlier] * (3 - step) / 3 for step in range(3)]
    assert sum(rates[:earlier]) + sum(falling) < needed


def test_the_rates_fall_to_zero_over_the_last_epoch(tmp_path: Path) -> None:
    lesson = problems.lesson(tmp_path, epochs=10, variant=POINT)
    descent = Descent.begin(lesson, tiny.generator())
    descent.steps = 9
    whole = lesson.plan.rate(9, 30)
    descent.end_by(30)
    rates = []
    for step in (9, 10, 11):
        descent.steps = step
        rates.append(descent._rate(12))
    assert rates == pytest.approx([whole, whole * 2 / 3, whole / 3])


def test_what_counts_as_falling_is_a_tenth_of_what_the_nll_gate_forgives() -> None:
    from bhpeft.judgement.gates_quality import paired_nll

    assert paired_nll.__kwdefaults__["margin"] == pytest.approx(10 * course.PLATEAU)


@pytest.mark.parametrize("methods", [["lora"], ["lora", "adapter", "prefix"]])
@pytest.mark.parametrize("family", ["bert", "llama"])
def test_no_step_waits_for_the_device(tmp_path: Path, methods: list[str], family: str) -> None:
    """On the meta device there are no numbers: what asks for one, as `.item()` does, fails.

    Step 0 leaves a point of the curve, which is asked for when the epoch is over.
    """
    lesson = problems.lesson(tmp_path, methods, family=family)
    use_attention(lesson.model.model, architecture_of(lesson.model.model))
    lesson.model.to("meta")
    descent = Descent.begin(lesson, tiny.generator())
    for minibatch in lesson.rows.minibatches(8, tiny.generator()):
        descent.gather(minibatch)
        descent.move(10)
    assert descent.steps == 3
    assert descent.curve == []
    with pytest.raises(NotImplementedError, match="meta tensor"):
        descent.read()


def test_a_minibatch_is_sent_before_the_one_in_front_of_it_is_used() -> None:
    """And none is lost, repeated or moved to another place."""
    sent: list[int] = []

    def sending():  # type: ignore[no-untyped-def]
        for number in range(4):
            sent.append(number)
            yield {"number": torch.tensor(number)}

    used = []
    for minibatch in _ahead(sending()):
        used.append((int(minibatch["number"]), len(sent)))
    assert used == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(_ahead(iter(()))) == []

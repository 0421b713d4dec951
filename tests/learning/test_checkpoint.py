"""A training that was cut off goes on where it was, and no other round ever takes it up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bhpeft.errors import TimeLimit
from bhpeft.learning.checkpoint import Checkpoint, identity
from bhpeft.learning.fit import Fitted, Lesson, fit
from bhpeft.learning.variants import BLOB, IVON, MC_DROPOUT
from tests import tiny
from tests.learning import problems

# Saved after every step.
AT_ONCE = 1e-9


def problem(folder: Path, **changes: Any) -> Lesson:
    """Return a problem of three epochs of three steps, or more."""
    plan = {"epochs": 3, "batch_size": 8, "save_every": AT_ONCE, **changes.pop("plan", {})}
    lesson = problems.lesson(folder, **changes)
    return replace(lesson, plan=replace(lesson.plan, **plan))


def cut_off(lesson: Lesson, kept: Path, after: int) -> None:
    """Train until the process dies after so many steps."""

    def dies(done: int, _: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(lesson, tiny.generator(), dies, kept)


def counting(lesson: Lesson, kept: Path | None) -> tuple[Fitted, int]:
    """Train to the end; return what came of it and how many steps were taken now."""
    heard: list[int] = []
    fitted = fit(lesson, tiny.generator(), lambda done, _: heard.append(done), kept)
    return fitted, len(heard)


def same(one: Fitted, other: Fitted) -> bool:
    a, b = one.state, other.state
    pairs = [(a.posterior.mean, b.posterior.mean), (a.posterior.rho, b.posterior.rho)]
    pairs += [(a.point[name], b.point[name]) for name in a.point]
    pairs += [(a.precision[name], b.precision[name]) for name in a.precision]
    facts = ("curve", "steps", "epochs", "travel_met", "settled")
    return all(torch.equal(x, y) for x, y in pairs) and all(
        getattr(one, name) == getattr(other, name) for name in facts
    )


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"variant": BLOB}, {"variant": IVON}, {"variant": MC_DROPOUT}),
        *({"plan": {"accumulate": 2}}, {"plan": {"patience": 1, "epochs": 6}}),
    ],
    ids=["bh_peft", "blob", "ivon", "mc_dropout", "accumulated", "patient"],
)
@pytest.mark.parametrize("after", [1, 3, 5])
def test_a_training_cut_off_anywhere_ends_as_if_it_never_was(
    tmp_path: Path, changes: dict[str, Any], after: int
) -> None:
    """In the first epoch, at its end, in the second; twice in one round; bit for bit."""
    lesson = problem(tmp_path, **changes)
    whole, steps = counting(lesson, None)
    cut_off(lesson, tmp_path / "kept", after)
    cut_off(lesson, tmp_path / "kept", after + 1)
    resumed, left = counting(lesson, tmp_path / "kept")
    assert same(whole, resumed)
    assert left == steps - after - 1


OTHERS: dict[str, Callable[[Lesson], Lesson]] = {
    "another prior": lambda lesson: replace(
        lesson, prior=replace(lesson.prior, mean=lesson.prior.mean + 1)
    ),
    "another plan": lambda lesson: replace(lesson, plan=replace(lesson.plan, learning_rate=1e-3)),
    "another λ": lambda lesson: replace(lesson, variant=replace(lesson.variant, kl_weight=0.7)),
    "another start": lambda lesson: replace(
        lesson, start=replace(lesson.start, point={k: v + 1 for k, v in lesson.start.point.items()})
    ),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_another_round_never_takes_it_up_and_clears_it_away(
    tmp_path: Path, change: Callable[[Lesson], Lesson]
) -> None:
    """Whatever differs in the learning problem, it begins anew; one file a stream is kept."""
    lesson = problem(tmp_path)
    cut_off(lesson, tmp_path / "kept", 2)
    other = change(lesson)
    fresh, resumed = counting(other, None), counting(other, tmp_path / "kept")
    assert same(fresh[0], resumed[0])
    assert fresh[1] == resumed[1]
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_other_rows_and_another_seed_are_other_rounds_and_a_longer_limit_is_not(
    tmp_path: Path,
) -> None:
    lesson = problem(tmp_path)
    named = identity(lesson, tiny.generator())
    assert (
        identity(replace(lesson, rows=problems.table(tmp_path, seed=1)), tiny.generator()) != named
    )
    assert identity(lesson, tiny.generator(1)) != named
    longer = replace(lesson, plan=replace(lesson.plan, max_seconds=9.0, save_every=7.0))
    assert identity(longer, tiny.generator()) == named


def test_a_file_cut_short_is_as_good_as_none(tmp_path: Path) -> None:
    """The disk filled up, or somebody touched it: the round begins anew."""
    lesson = problem(tmp_path)
    cut_off(lesson, tmp_path / "kept", 4)
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    whole, resumed = counting(lesson, None), counting(lesson, tmp_path / "kept")
    assert same(whole[0], resumed[0])
    assert resumed[1] == whole[1]


def test_the_time_limit_counts_what_was_trained_before(tmp_path: Path) -> None:
    """Cutting a round off does not give it time."""
    lesson = problem(tmp_path)
    cut_off(lesson, tmp_path / "kept", 2)
    checkpoint = Checkpoint.opened(tmp_path / "kept", lesson, tiny.generator(), 1.0)
    assert checkpoint.path.exists()
    slow = replace(lesson, plan=replace(lesson.plan, max_seconds=1e-6))
    with pytest.raises(TimeLimit):
        fit(slow, tiny.generator(), None, tmp_path / "kept")
    assert checkpoint.path.exists()


def test_a_short_round_writes_nothing(tmp_path: Path) -> None:
    """Ten minutes pass before the first save."""
    fit(problem(tmp_path, plan={"save_every": 600.0}), tiny.generator(), None, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()

"""What happens to the stream while it is being killed: a few stories, each a list of acts.

An act may be cut off anywhere and is then simply done again, by the same call.
"""

from __future__ import annotations

from chaos.points import Points
from chaos.world import World

Act = tuple[str, ...]

STORIES: dict[str, tuple[Act, ...]] = {
    "first rounds": (
        ("land", "good-1"),
        ("drain",),
        ("land", "good-2"),
        ("land", "twin-2"),
        ("drain",),
    ),
    "bad batches": (
        ("land", "good-1"),
        ("land", "poison-2"),
        ("land", "broken-3"),
        ("land", "doubtful-4"),
        ("drain",),
    ),
    "rolled back": (
        ("land", "good-1"),
        ("land", "good-2"),
        ("drain",),
        ("roll back", "1", "refuse"),
        ("land", "good-3"),
        ("drain",),
    ),
    "rolled back to learn again": (
        ("land", "good-1"),
        ("land", "good-2"),
        ("drain",),
        ("roll back", "1", "pending"),
        ("drain",),
    ),
    "three rounds": (
        ("land", "good-1"),
        ("land", "good-2"),
        ("land", "good-3"),
        ("drain",),
    ),
    "two rounds": (
        ("land", "good-1"),
        ("land", "good-2"),
        ("drain",),
    ),
    "alias moved by hand": (
        ("land", "good-1"),
        ("land", "good-2"),
        ("drain",),
        ("alias by hand", "1"),
        ("land", "good-3"),
        ("drain",),
    ),
}
# Rounds alone are told where something else than a death disturbs them.
USUAL = tuple(name for name in STORIES if name not in ("two rounds", "three rounds"))
# Figures and reports take two thirds of a round this small, so one story writes them.
WITH_PAGES = ("first rounds",)
BATCHES = ["good-1", "good-2", "good-3", "poison-2", "broken-3", "doubtful-4"]


def left_out(story: str) -> tuple[str, ...]:
    """Return the steps of a round that a story does without."""
    return () if story in WITH_PAGES else ("write_down",)


def perform(act: Act, world: World, points: Points) -> None:
    """Do one act."""
    kind, *rest = act
    acts = {
        "land": world.land,
        "drain": lambda: world.drain(points.run),
        "roll back": world.roll_back,
        "alias by hand": world.alias_by_hand,
    }
    acts[kind](*rest)

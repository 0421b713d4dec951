from __future__ import annotations

import pytest

from bhpeft.errors import UnknownName
from bhpeft.plugins import resolve

KNOWN = {"nll": 1, "accuracy": 2}
MINE = object()


def test_a_known_name_is_found_in_the_dict() -> None:
    assert resolve("gate", "nll", KNOWN) == 1


def test_anything_importable_is_found_by_module_and_attribute() -> None:
    """A user's plug-in needs no registration."""
    assert resolve("gate", "tests.test_plugins:MINE", {"nll": object()}) is MINE


def test_an_unknown_name_lists_what_is_known_and_guesses() -> None:
    with pytest.raises(UnknownName, match=r"no gate called 'acuracy'.*accuracy, nll.*'accuracy'\?"):
        resolve("gate", "acuracy", KNOWN)


@pytest.mark.parametrize(
    "path",
    [
        "no_such_package:gate",
        "bhpeft.plugins:no_such",
        "bhpeft.plugins:",
        ":gate",
        "..up:gate",
        ":",
    ],
)
def test_a_path_that_leads_nowhere_is_a_named_error(path: str) -> None:
    with pytest.raises(UnknownName, match=r"cannot be imported.*package\.module:attribute"):
        resolve("gate", path, KNOWN)

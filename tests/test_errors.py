from __future__ import annotations

import inspect
import pickle
import re

import pytest

from bhpeft import errors
from bhpeft.errors import (
    BhpeftError,
    ConfigError,
    ContractViolation,
    FitError,
    RegistryUnreachable,
    StateError,
    did_you_mean,
)


def drawn() -> dict[str, str]:
    """Return the tree in the module's docstring as child → parent."""
    parents, path = {}, {-1: "Exception"}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z][A-Za-z]+)(\s{2,}|$)", line)
        if found:
            depth = len(found[1])
            above = max(indent for indent in path if indent < depth or indent == -1)
            path = {indent: name for indent, name in path.items() if indent < depth}
            parents[found[2]] = path[above]
            path[depth] = found[2]
    return parents


def real() -> dict[str, str]:
    """Return the tree of the classes as child → parent."""
    found = inspect.getmembers(errors, lambda kind: inspect.isclass(kind))
    return {
        name: kind.__bases__[0].__name__
        for name, kind in found
        if issubclass(kind, Exception) and kind.__module__ == errors.__name__
    }


def test_the_error_tree_in_the_docstring_is_the_real_one() -> None:
    """A reader on call finds the class to catch by looking at the picture."""
    assert len(real()) > 20
    assert {k: v for k, v in drawn().items() if k != "BhpeftError"} == {
        k: v for k, v in real().items() if k != "BhpeftError"
    }
    assert real()["BhpeftError"] == "Exception"


def test_every_error_says_in_one_sentence_what_it_means() -> None:
    for name in real():
        said = getattr(errors, name).__doc__
        assert said.endswith((".", ".\n    ")), name


def test_an_error_reads_what_found_expected_and_remedy_in_that_order() -> None:
    error = StateError("It broke.", found="3", expected="4", remedy="Mend it.")
    assert str(error) == error.message == "It broke; found 3; expected 4. Mend it."
    assert str(StateError("It broke")) == "It broke."
    assert str(StateError("It broke", remedy="Mend it.")) == "It broke. Mend it."


@pytest.mark.parametrize("name", sorted(real()))
def test_every_error_survives_the_way_between_processes(name: str) -> None:
    """Prefect pickles exceptions; keyword-only arguments do not survive that by themselves."""
    kind: type[BhpeftError] = getattr(errors, name)
    error = kind("What", found="this", expected="that", remedy="Do.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.what, again.found, again.expected, again.remedy) == (
        "What", "this", "that", "Do.",
    )  # fmt: skip


def test_a_contract_violation_keeps_its_reasons_between_processes() -> None:
    reasons = [{"column": "text", "check": "not null", "rows": 2, "examples": [{"row": 1}]}]
    error = ContractViolation("Broken", reasons=reasons, found="nulls")
    assert pickle.loads(pickle.dumps(error)).reasons == reasons


def test_errors_are_caught_by_what_they_are_about() -> None:
    with pytest.raises(FitError):
        raise errors.Diverged("x")
    with pytest.raises(ConfigError):
        raise errors.UnknownName("x")
    with pytest.raises(errors.RegistryError):
        raise RegistryUnreachable("x")


def test_a_close_name_is_suggested_and_otherwise_the_known_ones_are_listed() -> None:
    assert did_you_mean("kl_wieght", ["kl_weight", "seed"]) == "Did you mean 'kl_weight'?"
    assert did_you_mean("zzz", ["b", "a"]) == "Known names: a, b."
    assert did_you_mean("zzz", []) == ""

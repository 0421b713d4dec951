from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bhpeft.errors import ConfigError, StreamFileError, UnknownName
from bhpeft.stream import read_stream
from bhpeft.tasks import TASKS, task

FILE = """
task = %s
[data]
contract = "c.yaml"
[model]
base = "somewhere"
"""


@pytest.mark.parametrize("name", TASKS)
def test_every_task_knows_its_own_name_and_figures(name: str) -> None:
    """What stands in the stream file is what the state says, and its headline is a figure."""
    found = task(name)
    assert found.name == name
    assert found.figures.headline.name in found.figures.plain
    assert "nll" in found.figures.plain


def test_what_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match=r"clasification.*\n?.*classification"):
        task("clasification")
    with pytest.raises(ConfigError, match="no setting 'depth'"):
        task("classification", {"depth": 3})


def test_a_stream_file_names_its_task_in_a_word_or_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(FILE % '"classification"')
    assert read_stream(path, tmp_path).task.name == "classification"
    path.write_text(FILE % '{ name = "classification", depth = 3 }')
    with pytest.raises(StreamFileError, match="depth"):
        read_stream(path, tmp_path)
    path.write_text(FILE % '"sorting"')
    with pytest.raises(StreamFileError, match="sorting"):
        read_stream(path, tmp_path)


def test_a_task_of_ones_own_is_named_by_its_path() -> None:
    assert task("bhpeft.tasks.classification:Classification") == task("classification")


def test_labels_are_told_by_their_place_and_never_have_no_share() -> None:
    found = task("classification")
    targets = found.targets(["b", "a", "b"], ("a", "b", "c"))
    np.testing.assert_array_equal(targets, [1, 0, 1])
    np.testing.assert_allclose(found.tally([targets], ("a", "b", "c")), [2 / 6, 3 / 6, 1 / 6])

"""The runbook says what exists: commands, options, scripts, headings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bhpeft import errors
from bhpeft.cli import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TYPED = re.findall(r"^\s*(?:\$ )?(bhpeft [^#\n&|]+)", "\n".join(BLOCKS), re.MULTILINE)
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", sorted(set(TYPED)))
def test_every_command_of_the_runbook_exists_with_its_options(line: str) -> None:
    words = shlex.split(line)[1:]
    assert words[0] in COMMANDS, line
    command = COMMANDS[words[0]]
    if hasattr(command, "commands"):  # a command of commands, such as `bhpeft population`
        assert words[1] in command.commands, line
        command = command.commands[words[1]]
    known = {option for p in command.params for option in [*p.opts, *p.secondary_opts]}
    assert {word for word in words if word.startswith("--")} <= known, line


def test_every_command_in_the_text_and_every_file_exists() -> None:
    assert len(TYPED) > 10
    for name in re.findall(r"`bhpeft (\w+)", PAGE):
        assert name in COMMANDS, name
    for name in set(re.findall(r"\bdeploy/[\w./@-]*\w", PAGE)):
        made = name.startswith(("deploy/secrets", "deploy/tls"))
        assert made or (ROOT / name).exists(), name


def test_every_link_to_a_chapter_leads_to_one() -> None:
    chapters = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    }
    assert {link for link in re.findall(r"\]\(#([\w-]+)\)", PAGE)} <= chapters


def test_every_error_named_as_an_alarm_is_one_of_ours() -> None:
    table = PAGE.partition("## What each alarm means")[2]
    named = set(re.findall(r"^\| `([A-Z]\w+)", table, re.MULTILINE))
    assert len(named) >= 6
    assert {name for name in named if not hasattr(errors, name)} == set()

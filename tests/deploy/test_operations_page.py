"""The runbook says what exists: commands, options, scripts, headings."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
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


CLUSTER = (ROOT / "deploy" / "kubernetes" / "README.md").read_text(encoding="utf-8")
OTHERS = sorted(
    {
        " ".join(found.split())
        for text in (PAGE, CLUSTER)
        for found in re.findall(
            r"(?:^|`)((?:prefect|mlflow|python -m) [a-z-][^`\n#;]*)", text, re.MULTILINE
        )
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("line", OTHERS)
def test_every_command_of_others_exists_with_its_options(line: str) -> None:
    """Prefect's, MLflow's and our modules': a renamed option is found here and not on call."""
    words = shlex.split(line.replace("[", "").replace("]", ""))
    asked = {word for word in words if word.startswith("--")}
    if words[0] == "python":
        shown = _help(sys.executable, *words[1:3])
    else:
        program, commands = str(Path(sys.executable).parent / words[0]), list[str]()
        for word in words[1:]:
            if not word.startswith("--") and (not commands or _is_group(program, *commands)):
                commands.append(word)
        shown = _help(program) + _help(program, *commands)
    assert asked <= set(re.findall(r"--[\w-]+", shown)), line


def _is_group(*command: str) -> bool:
    return re.search(r"\bCOMMAND\b", _help(*command)) is not None


@cache
def _help(*command: str) -> str:
    wide = {**os.environ, "COLUMNS": "250", "TERM": "dumb"}
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=wide, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_other_commands_are_really_looked_at() -> None:
    assert any(line.startswith("prefect work-queue") for line in OTHERS)
    assert any(line.startswith("python -m") for line in OTHERS)

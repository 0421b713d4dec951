"""Write docs/benchmarks.md from docs/benchmarks.json: `python -m benchmarks.page`."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.plots import draw

HERE = Path(__file__).parent

HEAD = """# Benchmarks

What bhpeft costs beside what people use today. `make bench` runs all of them in about half an
hour on two cores and writes this page; `python -m benchmarks NAME --json FILE` runs one.

Every figure is the median of interleaved repeats with its quartiles, by the CPU time of one thread,
and better when lower. A target is the most a figure may be. Targets differ by whether the CPU has
matrix units for bfloat16 (AMX); the column that applies to the machine below is the one shown.
"""


def write(results: Path) -> Path:
    """Write the page beside `results`, its plots in a folder of their own; return the page."""
    found = json.loads(results.read_text(encoding="utf-8"))
    folder = results.with_suffix("")
    plots = draw(found, folder)
    parts = [HEAD, _machines(found), _duration(found), _summary(found)]
    for one in found:
        parts.append(_section(one))
        if one["name"] in plots:
            file = plots[one["name"]]
            parts.append(f"![{one['name']}]({folder.name}/{file.name})\n")
    page = results.with_suffix(".md")
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _machines(found: list[dict[str, Any]]) -> str:
    """Say where the figures come from; once, if all come from the same machine."""
    told: dict[str, list[str]] = {}
    for one in found:
        told.setdefault(_in_words(one), []).append(one["name"])
    lines = [
        f"- {words}" + (f" ({', '.join(n)})" if len(told) > 1 else "") for words, n in told.items()
    ]
    return "\n".join(["## The machine\n", *lines, ""])


def _duration(found: list[dict[str, Any]]) -> str:
    minutes = sum(one["seconds"] for one in found) / 60
    return f"The run took {minutes:.1f} minutes, one benchmark after another.\n"


def _in_words(one: dict[str, Any]) -> str:
    m = one["machine"]
    versions = ", ".join(f"{name} {of}" for name, of in m["versions"].items() if of)
    column = "float32 (no AMX)" if m["targets"] == "fp32" else "bfloat16 (AMX)"
    hardware = f"{m['processor']}, {m['cpus']} CPUs, {m['gpu'] or 'no GPU'}"
    return (
        f"{hardware}; {', '.join(m['flags'])}; {m['threads']} thread; "
        f"targets for {column}; {m['system']}, Python {m['python']}; {versions}; "
        f"commit {one['commit']}, {one['date']}"
    )


def _summary(found: list[dict[str, Any]]) -> str:
    promised = [(o["name"], r) for o in found for r in o["rows"] if r["target"] is not None]
    missed = [
        f"| [{name}](#{name}) | {_cell(r['what'])} | {r['ratio']:.3g} | {r['target']:g} |"
        for name, r in promised
        if not _met(r)
    ]
    met = len(promised) - len(missed)
    lines = ["## At a glance\n", f"{met} of {len(promised)} targets are met."]
    if missed:
        lines += ["Missed, with the reason in its section:\n"]
        lines += ["| benchmark | figure | median | target |", "|---|---|---|---|", *missed]
    return "\n".join([*lines, ""])


def _section(one: dict[str, Any]) -> str:
    about, notes = _words(one["name"])
    lines = [f"## {one['name']}\n", about, ""]
    if "skipped" in one:
        lines += [f"Not run: {one['skipped']}.", ""]
    if one["rows"]:
        lines += ["| figure | median | quartiles | target | |", "|---|---|---|---|---|"]
        lines += [_row(row) for row in one["rows"]]
        lines += [""]
    return "\n".join(lines + ([notes, ""] if notes else []))


def _row(row: dict[str, Any]) -> str:
    target = "" if row["target"] is None else f"≤ {row['target']:g}"
    verdict = "" if row["target"] is None else "met" if _met(row) else "**missed**"
    spread = f"{row['low']:.3g} to {row['high']:.3g}"
    return f"| {_cell(row['what'])} | {row['ratio']:.3g} | {spread} | {target} | {verdict} |"


def _met(row: dict[str, Any]) -> bool:
    return bool(row["ratio"] <= row["target"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _words(name: str) -> tuple[str, str]:
    """Return a benchmark's docstring and its NOTES, read without importing what it needs."""
    tree = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    notes = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NOTES"
    ]
    return ast.get_docstring(tree) or "", notes[0].strip() if notes else ""


if __name__ == "__main__":
    sys.stdout.write(f"{write(Path(sys.argv[1]))}\n")

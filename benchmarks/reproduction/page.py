"""Write docs/reproduction.json from the cells that were run, and from it docs/reproduction.md.

The JSON has all that the page shows, plots included; a claim whose cells are not in this cache
keeps the entry it has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.reproduction.cells import Kept
from benchmarks.reproduction.claim import Claim, Criterion, Judged
from benchmarks.reproduction.everything import EVERYTHING
from benchmarks.reproduction.plots import draw

Entry = dict[str, Any]

HEAD = """# Reproduction

What the papers claim, tried with this library on real text, in relative form: models, corpora and
rounds are as small as two cores can pay, so what is compared is ways with one another, not with the
papers' own figures. `make reproduce` runs everything and writes this page from
[reproduction.json](reproduction.json); `python -m benchmarks.reproduction R1` runs one claim. Every
verdict is computed from what was measured, by its 95 % interval: *reproduced* if each figure that
decides reaches its target with the whole interval, *in the mean* if each does but not each so
surely, *partly* if some do; what has one seed has no interval, and says so. What is behind the
methods is in [method.md](method.md) and [methods.md](methods.md). A1 to A9 are what the library's
defaults rest on: the same rows and steps, and one thing different.
"""

# What a section's parts are called on the page, by its kind.
WORDS: dict[str, dict[str, str]] = {
    "claim": {"Claimed.": "claim", "Target.": "target", "Tried.": "about"},
    "ablation": {"What differs.": "claim", "The default.": "target", "Tried.": "about"},
}


def write(results: Path, kept: Kept, quick: bool) -> Path:
    """Judge every claim by the cells there are, write `results` and the page beside it."""
    before = json.loads(results.read_text(encoding="utf-8")) if results.exists() else {}
    entries = {}
    for name in sorted(EVERYTHING, key=_place):
        claim = EVERYTHING[name]
        judged = claim.judge(quick, kept.find)
        if judged.verdict == "not yet run" and name in before:
            entries[name] = {"kind": claim.kind, **before[name]}
            continue
        entries[name] = entry(claim, judged, kept.seconds(claim.cells(quick)))
    results.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False)
    results.write_text(text + "\n", encoding="utf-8")
    return render(results)


def _place(name: str) -> tuple[bool, str]:
    """Return where a section stands: claims first, each kind by its number."""
    return EVERYTHING[name].kind != "claim", name


def entry(claim: Claim, judged: Judged, seconds: float) -> Entry:
    """Return a claim's part of the JSON: what, measured, and what follows."""
    told = machine()
    return {
        "kind": claim.kind,
        "title": claim.title,
        "claim": claim.claim,
        "target": claim.target,
        "about": claim.about,
        "measured": {one.what: _number(one.value.value) for one in judged.criteria},
        "interval": {
            one.what: [_number(one.value.low), _number(one.value.high)] for one in judged.criteria
        },
        "seeds": list(judged.seeds),
        "verdict": judged.verdict,
        "criteria": [_criterion(one) for one in judged.criteria],
        "said": list(judged.said),
        "tried": claim.tried,
        "tables": [asdict(one) for one in judged.tables],
        "plots": [asdict(one) for one in judged.plots],
        "cpu_seconds": round(seconds),
        "machine": {key: told[key] for key in ("processor", "cpus", "flags", "versions")},
    }


def render(results: Path) -> Path:
    """Write the page beside `results` from it alone, its plots in a folder of their own."""
    entries: dict[str, Entry] = json.loads(results.read_text(encoding="utf-8"))
    folder = results.with_suffix("")
    drawn = draw(entries, folder)
    parts = [HEAD, _glance(entries)]
    parts += [_section(name, one, drawn.get(name, [])) for name, one in entries.items()]
    parts.append(_machine(entries))
    page = results.with_suffix(".md")
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def _glance(entries: Mapping[str, Entry]) -> str:
    columns = ["", "claim", "verdict", "seeds", "figures at their target", "surely so"]
    lines = ["## At a glance\n", _line(columns), "|" + "---|" * len(columns)]
    for name, one in entries.items():
        deciding = [c for c in one["criteria"] if c["decides"]]
        met = f"{sum(c['met'] for c in deciding)} of {len(deciding)}" if deciding else "–"
        sure = str(sum(c["surely"] for c in deciding)) if deciding else "–"
        link = f"[{name}](#{_anchor(name, one)})"
        title = _cell(one["title"])
        lines.append(_line([link, title, f"**{one['verdict']}**", len(one["seeds"]), met, sure]))
    return "\n".join([*lines, ""])


def _section(name: str, one: Entry, plots: list[tuple[str, Path]]) -> str:
    lines = [
        f"## {name}: {one['title']}\n",
        *(f"**{word}** {one[part]}\n" for word, part in WORDS[one["kind"]].items()),
        f"**Verdict: {one['verdict']}.** " + " ".join(one["said"]),
        "",
    ]
    # An ablation's figures are in its table, each beside the default's.
    if one["criteria"] and one["kind"] == "claim":
        lines += ["| figure | measured | 95 % | target | |", "|---|---|---|---|---|"]
        lines += [_row(c) for c in one["criteria"]]
        lines += [""]
    for table in one["tables"]:
        lines += [f"**{table['title']}**\n", _line(table["columns"])]
        lines += ["|" + "---|" * len(table["columns"])]
        lines += [_line(row) for row in table["rows"]] + [""]
    lines += [f"![{title}]({path.parent.name}/{path.name})" for title, path in plots]
    if plots:
        lines.append("")
    if one["tried"]:
        lines += [f"**What else was tried.** {one['tried']}\n"]
    if one["seeds"]:
        seeds = ", ".join(map(str, one["seeds"]))
        lines += [f"Seeds {seeds}; {one['cpu_seconds'] / 60:.0f} CPU minutes.\n"]
    return "\n".join(lines)


def _row(one: Mapping[str, Any]) -> str:
    sign = "≥" if one["at_least"] else "≤"
    told = one["outcome"] if one["met"] else f"**{one['outcome']}**"
    known = one["low"] is not None and one["high"] is not None
    spread = f"{_short(one['low'])} to {_short(one['high'])}" if known else "one seed"
    target = f"{sign} {one['target']:g}"
    if one["slack"]:
        worst = one["target"] - one["slack"] * (1 if one["at_least"] else -1)
        target += f", surely so beyond {worst:g}"
    told = told if one["decides"] else f"({told})"
    return _line([_cell(one["what"]), _short(one["value"]), spread, target, told])


def _criterion(one: Criterion) -> dict[str, Any]:
    return {
        "what": one.what, "value": _number(one.value.value), "low": _number(one.value.low),
        "high": _number(one.value.high), "target": one.target, "at_least": one.at_least,
        "decides": one.decides, "met": one.met, "surely": one.surely, "slack": one.slack,
        "outcome": one.outcome,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) and abs(value) < 1e12 else None


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _line(cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(name: str, one: Entry) -> str:
    kept = [c for c in f"{name} {one['title']}".lower() if c.isalnum() or c in " -"]
    return "".join(kept).replace(" ", "-")


def _machine(entries: Mapping[str, Entry]) -> str:
    told = next((one["machine"] for one in entries.values() if one["seeds"]), None)
    if told is None:
        return ""
    versions = ", ".join(f"{name} {of}" for name, of in told["versions"].items() if of)
    total = sum(one["cpu_seconds"] for one in entries.values()) / 60
    return (
        f"## The machine\n\n{told['processor']}, {told['cpus']} CPUs, no GPU; "
        f"{', '.join(told['flags'])}; {versions}. All claims together: {total:.0f} CPU minutes of "
        "one thread; claims share cells.\n"
    )

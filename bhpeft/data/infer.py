"""Write a contract for a person to finish: inferred from a sample file, or a plain template.

What a sample cannot tell (ranges, freshness, how few rows are too few) is left as a comment or
set generously: a guessed rule would quarantine good data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bhpeft.data.odcs import ANY_TASK
from bhpeft.data.sample import MOST_LABELS, Guess, columns_of
from bhpeft.errors import ContractFileError, did_you_mean
from bhpeft.tasks import Classification, Needs

_MOST_SLICES = 20
_LABEL_NAMES = ("label", "labels", "target", "class", "category", "intent", "sentiment", "y")
_NUMBER_NAMES = ("target", "rating", "stars", "score", "value", "y")
_KEY_NAMES = ("id", "key", "uuid", "guid")


def infer_contract(
    sample: Path | str | None,
    name: str,
    text: str | None = None,
    label: str | None = None,
    labels: Sequence[str] = (),
    needs: Needs = Classification.needs,
) -> str:
    """Return a commented ODCS contract as YAML text.

    Args:
        sample: a Parquet, CSV or JSON-lines file to infer it from; None for a template.
        name: the contract's name, usually the stream's.
        text: the text column, when the longest strings are not it.
        label: the label column, when the inference would choose another.
        labels: the labels, when the sample does not show them all.
        needs: what the stream's task needs of a contract.

    Raises:
        ContractFileError: the sample has no column that could be the text or the label.
        BatchError: the sample cannot be read.
    """
    if sample is None:
        guesses = _template(text, label, tuple(labels), needs)
    else:
        path = Path(sample)
        guesses = _with_roles(columns_of(path, needs), path, text, label, tuple(labels), needs)
    properties = "\n".join(_property(guess, needs) for guess in guesses)
    roles = " | ".join(filter(None, (*needs.roles, needs.option_list, *ANY_TASK)))
    said = {"name": json.dumps(name), "id": json.dumps(f"urn:bhpeft:{name}"), "roles": roles}
    return _DOCUMENT.format(**said).replace("<properties>", properties)


def _template(
    text: str | None, label: str | None, labels: tuple[str, ...], needs: Needs
) -> list[Guess]:
    """Return columns to begin with, where there is no sample."""
    first = needs.roles[0]
    guesses = [
        Guess("id", "string", "key"),
        Guess(text or first, "string", first, longest=2000),
    ]
    if needs.option_list:
        guesses.append(Guess("options", "array", needs.option_list))
    if needs.answer:
        known = labels or (("A", "B", "C", "D") if needs.options else ("negative", "positive"))
        kind, values = ("string", known) if needs.listed else ("number", ())
        guesses.append(Guess(label or needs.answer, kind, needs.answer, values=values))
    return guesses


def _with_roles(
    columns: list[Guess],
    path: Path,
    text: str | None,
    label: str | None,
    labels: tuple[str, ...],
    needs: Needs,
) -> list[Guess]:
    strings = [c for c in columns if c.kind == "string" and c.mean_length > 0]
    longest = max(strings, key=lambda c: c.mean_length, default=None)
    texts = _chosen(text, columns, path) or longest
    rest = [c for c in columns if c is not texts]
    likeliest = _likeliest_label if needs.listed else _likeliest_number
    answers = _chosen(label, columns, path) or likeliest(rest) if needs.answer else None
    lists = [c for c in columns if c.kind == "array"]
    missing = {
        needs.roles[0]: texts is None,
        needs.answer: answers is None and bool(needs.answer),
        needs.option_list: not lists and bool(needs.option_list),
    }
    for role, absent in missing.items():
        if absent:
            raise ContractFileError(
                f"{path} shows no column that could be the {role}",
                found=", ".join(f"{c.name} ({c.kind}, {c.distinct} values)" for c in columns),
                expected=_EXPECTED[bool(needs.option_list), needs.listed],
                remedy="Name them with --text and --label. Options in columns of their own are "
                "written into the contract by hand."
                if needs.option_list
                else "Name them with --text and --label.",
            )
    named = {
        **({answers.name: needs.answer} if answers else {}),
        **({lists[0].name: needs.option_list} if needs.option_list else {}),
        **({texts.name: needs.roles[0]} if texts else {}),
    }
    return [_with_role(c, named, labels, needs) for c in columns]


_EXPECTED = {
    (False, True): "a string column of texts, and one with a few repeated values as the label",
    (False, False): "a string column of texts, and a column of numbers where one is predicted",
    (True, True): "a string column of questions, a column of lists, and one of answers",
}


def _with_role(
    column: Guess, named: dict[str, str], labels: tuple[str, ...], needs: Needs
) -> Guess:
    role: str | None = None
    if column.name in named:
        role = named[column.name]
    elif _is_key(column):
        role = "key"
    elif column.kind == "string" and 2 <= column.distinct <= _MOST_SLICES and _repeats(column):
        role = "slice"
    answer = role == needs.answer and needs.listed
    values = column.values if answer or role == "slice" else ()
    if answer and labels:
        values = labels
    return Guess(column.name, column.kind, role, values, column.longest, nulls=column.nulls)


def _chosen(name: str | None, columns: list[Guess], path: Path) -> Guess | None:
    if name is None:
        return None
    for column in columns:
        if column.name == name:
            return column
    raise ContractFileError(
        f"{path} has no column {name!r}",
        found=", ".join(column.name for column in columns),
        remedy=did_you_mean(name, [column.name for column in columns]),
    )


def _likeliest_label(columns: list[Guess]) -> Guess | None:
    fit = [
        c
        for c in columns
        if c.kind in ("string", "integer") and 2 <= c.distinct <= MOST_LABELS and _repeats(c)
    ]
    named = [c for c in fit if c.name.lower() in _LABEL_NAMES]
    return min(named or fit, key=lambda c: c.distinct, default=None)


def _likeliest_number(columns: list[Guess]) -> Guess | None:
    fit = [c for c in columns if c.kind in ("number", "integer") and c.distinct > 1]
    named = [c for c in fit if c.name.lower() in _NUMBER_NAMES]
    rest = [c for c in fit if not _is_key(c)]
    return next(iter(named or rest), None)


def _repeats(column: Guess) -> bool:
    """Say whether values come back, as a label's do; a small sample may show each only once."""
    return column.distinct < max(3, column.rows - column.nulls)


def _is_key(column: Guess) -> bool:
    name = column.name.lower()
    named = name in _KEY_NAMES or name.endswith(("_id", "_key", "_uuid"))
    unique = column.nulls == 0 and column.distinct == column.rows
    return named and unique and column.kind in ("string", "integer")


def _property(guess: Guess, needs: Needs) -> str:
    required = guess.role in (*needs.roles, needs.option_list, "key")
    lines = [
        f"- name: {json.dumps(guess.name, ensure_ascii=False)}",
        f"  logicalType: {guess.kind}",
        f"  required: {str(required).lower()}",
    ]
    if guess.role == "key":
        lines.append("  unique: true")
    if guess.kind == "array":
        lines.append("  items: {logicalType: string}")
    if guess.role == needs.roles[0]:
        # Room for texts longer than the sample's, still far from an accident of a megabyte.
        longest = max(2000, -(-4 * guess.longest // 1000) * 1000)
        lines.append(f"  logicalTypeOptions: {{minLength: 1, maxLength: {longest}}}")
    if guess.kind in ("number", "integer") and guess.role is None:
        lines.append("  # logicalTypeOptions: {minimum: 0, maximum: 1}")
    if guess.role is not None:
        lines.append(f"  customProperties: [{{property: bhpeft.role, value: {guess.role}}}]")
    if guess.role == needs.answer and needs.listed:
        lines += ["  quality:", "    - type: library", "      metric: invalidValues"]
        values = json.dumps(list(guess.values), ensure_ascii=False)
        lines += [f"      arguments: {{validValues: {values}}}", "      mustBe: 0"]
    return "\n".join(f"      {line}" for line in lines)


_DOCUMENT = """\
# A data contract: what a batch must look like to be learned from. Anything else is quarantined.
# Open Data Contract Standard v3.1.0; one entry under `properties` for every column.
#   bhpeft.role   {roles}   (a list if a column plays two)
#                 key: unique in a batch; slice: the gates look at each of its values;
#                 event_time: when the row happened, never in the future
#   required      true: no nulls. A column without role that is not required may be left out.
# A change that old batches would not pass is a new major version.
apiVersion: v3.1.0
kind: DataContract
id: {id}
name: {name}
version: 1.0.0
status: draft
schema:
  - name: {name}
    physicalType: parquet
    properties:
<properties>
    quality:
      # A batch with fewer rows is refused.
      - {{type: library, metric: rowCount, mustBeGreaterOrEqualTo: 20}}
      # Rows that repeat an earlier row's text and label would be counted twice.
      - {{type: library, metric: duplicateValues, unit: percent, mustBeLessOrEqualTo: 5}}
# How old a batch's data may be when it lands; remove it if age does not matter.
# slaProperties:
#   - {{property: latency, value: 30, unit: d}}
"""

"""Read a data contract: what a stream's batches must look like, as one ODCS v3 YAML file.

The file is the Open Data Contract Standard's. The one thing it has no word for, which column plays
which part, is a custom property of the column: `bhpeft.role`. A rule that bhpeft could not enforce
is refused, so that none is mere decoration.

    - name: domain
      logicalType: string
      customProperties: [{property: bhpeft.role, value: slice}]      # or a list: [label, slice]

Source: Open Data Contract Standard v3.1.0, https://bitol-io.github.io/open-data-contract-standard/
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from bhpeft.data import odcs, odcs_rules
from bhpeft.errors import ContractFileError
from bhpeft.tasks import Classification, Needs

# A text of a megabyte is a log file or a mistake, not an example to learn from; whoever means it
# writes a larger maxLength into the contract.
DEFAULT_MAX_LENGTH = 100_000

# Repeated rows count twice in the posterior. With a share d of repeats its standard deviations
# come out √(1 − d) of the honest ones: 2.5 % too small at 5 %, which no gate could notice.
DEFAULT_MAX_DUPLICATE_SHARE = 0.05

ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "array": pa.list_(pa.string()),
}

_ROLE_EXAMPLE = "customProperties: [{property: bhpeft.role, value: %s}]"


@dataclass(frozen=True)
class Column:
    """Hold the rules for one column; a bound that is None does not apply."""

    name: str
    logical_type: str
    required: bool = False
    unique: bool = False
    values: tuple[Any, ...] = ()
    minimum: Any = None
    maximum: Any = None
    above: Any = None
    below: Any = None
    min_length: int = 0
    max_length: int = DEFAULT_MAX_LENGTH
    pattern: str | None = None

    @property
    def arrow(self) -> pa.DataType:
        """Return the Arrow type in which the column is read."""
        return ARROW_TYPES[self.logical_type]


@dataclass(frozen=True)
class Contract:
    """Hold what a stream's batches must look like.

    `label` is the column of the answers, empty where a row is its own; `labels` are its values
    where they are listed, as strings in the order of the contract, whatever the column's type is.
    `options` are the columns an answer chooses from, in the order of their labels; a row without
    the last of them has nulls there. With `option_list` it is one column, of lists.
    """

    name: str
    version: str
    columns: tuple[Column, ...]
    text: str
    label: str
    labels: tuple[str, ...]
    options: tuple[str, ...] = ()
    option_list: bool = False
    key: str | None = None
    slices: tuple[str, ...] = ()
    event_time: str | None = None
    max_age: timedelta | None = None
    min_rows: int = 1
    max_rows: int | None = None
    max_duplicate_share: float = DEFAULT_MAX_DUPLICATE_SHARE

    @property
    def arrow(self) -> pa.Schema:
        """Return the schema in which a batch's rows are read."""
        return pa.schema([pa.field(c.name, c.arrow, nullable=not c.required) for c in self.columns])

    @property
    def answer(self) -> tuple[str, ...]:
        """Return the column of the answers, if a row is not its own."""
        return (self.label,) if self.label else ()

    @property
    def always_present(self) -> tuple[str, ...]:
        """Return the columns a batch must have: the required ones and those with a role."""
        roles = {self.text, self.label, self.key, self.event_time, *self.slices}
        roles.update(self.options)
        return tuple(c.name for c in self.columns if c.required or c.name in roles)

    def column(self, name: str) -> Column:
        """Return the rules of one column.

        Raises:
            KeyError: the contract has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def load_contract(path: Path | str, needs: Needs = Classification.needs) -> Contract:
    """Read and check a contract file.

    Args:
        path: of the YAML file.
        needs: what the stream's task needs of it.

    Raises:
        ContractFileError: the file is missing, is not an ODCS v3 contract, lacks what bhpeft needs
            (the error shows how to write it) or has a rule that bhpeft cannot enforce.
    """
    path = Path(path)
    document = odcs.read(path)
    table = odcs.only_table(document, path)
    roles = _roles(table, path)
    columns = tuple(_column(p, roles.get(p.name, ()), needs, path) for p in table.properties)
    by_role = _by_role(roles)
    text, label = _text_and_answer(by_role, needs, path)
    labels = _labels(columns, label, path) if needs.listed else ()
    rows = odcs_rules.row_rules(table, path)
    return Contract(
        name=document.name or document.id,
        version=document.version,
        columns=columns,
        text=text,
        label=label,
        labels=labels,
        options=_options(by_role, needs, labels, path),
        option_list=bool(needs.option_list and needs.option_list in by_role),
        key=_at_most_one(by_role, "key", path),
        slices=tuple(by_role.get("slice", ())),
        event_time=_at_most_one(by_role, "event_time", path),
        max_age=odcs_rules.max_age(document, path),
        min_rows=rows.minimum,
        max_rows=rows.maximum,
        max_duplicate_share=(
            DEFAULT_MAX_DUPLICATE_SHARE if rows.duplicate_share is None else rows.duplicate_share
        ),
    )


def _roles(table: Any, path: Path) -> dict[str, tuple[str, ...]]:
    return {p.name: odcs.roles_of(p, path) for p in table.properties}


def _by_role(roles: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for column, played in roles.items():
        for role in played:
            columns.setdefault(role, []).append(column)
    return columns


def _text_and_answer(by_role: dict[str, list[str]], needs: Needs, path: Path) -> tuple[str, str]:
    """Return the columns of text and answer.

    Raises:
        ContractFileError: one is missing, or a column plays a part the task has no use for.
    """
    for role in by_role.keys() - {*needs.roles, needs.options, needs.option_list, *odcs.ANY_TASK}:
        raise ContractFileError(
            f"{path} gives a column the role {role!r}",
            found=", ".join(by_role[role]),
            expected=f"the roles of the stream's task: {', '.join(needs.roles)}",
            remedy="Remove the role, or name the task it belongs to in the stream file.",
        )
    found = {role: _at_most_one(by_role, role, path) for role in needs.roles}
    for role, column in found.items():
        if column is None:
            raise ContractFileError(
                f"{path} does not say which column is the {role}",
                expected=f"one property with the role {role!r}",
                remedy=f"Add to that property: {_ROLE_EXAMPLE % role}",
            )
    return str(found[needs.roles[0]]), found.get(needs.answer) or ""


def _options(
    by_role: dict[str, list[str]], needs: Needs, labels: tuple[str, ...], path: Path
) -> tuple[str, ...]:
    """Return the columns of the options.

    Raises:
        ContractFileError: there are not as many as labels, nor one column of lists.
    """
    columns = by_role.get(needs.options, []) if needs.options else []
    if needs.option_list and not columns and needs.option_list in by_role:
        listed = _at_most_one(by_role, needs.option_list, path)
        return (str(listed),)
    if needs.options and len(columns) != len(labels):
        raise ContractFileError(
            f"{path} does not have one column of options for each answer",
            found=f"{len(columns)} columns with the role {needs.options!r}",
            expected=f"{len(labels)}, for the answers {', '.join(labels)}",
            remedy="Give every option's column that role, in the order of the answers; a row with "
            "fewer options has nulls in the last of them. Or give one column of lists the role "
            f"{needs.option_list!r}.",
        )
    return tuple(columns)


def _at_most_one(by_role: dict[str, list[str]], role: str, path: Path) -> str | None:
    columns = by_role.get(role, [])
    if len(columns) > 1:
        raise ContractFileError(
            f"{path} gives the role {role!r} to more than one column",
            found=", ".join(columns),
            expected="one column with that role",
            remedy="Remove the role from all but one; only `slice` may be given several times.",
        )
    return columns[0] if columns else None


def _column(declared: Any, roles: tuple[str, ...], needs: Needs, path: Path) -> Column:
    where = f"{path}, column {declared.name!r}"
    kind = odcs.logical_type(declared, ARROW_TYPES, where)
    allowed: dict[str, tuple[str, ...]] = {
        needs.roles[0]: ("string",),
        needs.options: ("string",),
        needs.option_list: ("array",),
    }
    allowed |= {needs.answer: needs.types, "event_time": ("timestamp",)}
    for role in roles:
        if kind not in allowed.get(role, (kind,)):
            raise ContractFileError(
                f"{where} cannot be the {role}",
                found=f"logicalType: {kind}",
                expected=f"logicalType: {' or '.join(allowed[role])}",
                remedy="Change the type, or give the role to another column.",
            )
    if kind == "array" and needs.option_list not in roles:
        raise ContractFileError(
            f"{where} is a list, which only options may be",
            found="logicalType: array",
            expected=f"the role {needs.option_list!r}" if needs.option_list else "another type",
            remedy="Drop the column, or flatten it.",
        )
    # Nothing can be learned from a row without these, so they need not be declared required.
    never_null = bool({*needs.roles, needs.option_list, "key", "event_time"} & set(roles))
    if never_null and declared.required is False:
        raise ContractFileError(
            f"{where} may be null, but has the role {' and '.join(roles)}",
            found="required: false",
            expected="required: true",
            remedy="Write `required: true`: no row can be learned without it.",
        )
    return Column(
        name=declared.name,
        logical_type=kind,
        required=bool(declared.required) or never_null,
        unique=bool(declared.unique) or bool(declared.primaryKey) or "key" in roles,
        values=odcs_rules.valid_values(declared, kind, where),
        **odcs_rules.bounds(declared, kind, where),
    )


def _labels(columns: tuple[Column, ...], label: str, path: Path) -> tuple[str, ...]:
    values = next(c.values for c in columns if c.name == label)
    labels = tuple(str(value) for value in values)
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ContractFileError(
            f"{path} does not list the labels of column {label!r}",
            found=", ".join(labels) or "no list of valid values",
            expected="two or more different labels",
            remedy=(
                "Add to that property: quality: [{type: library, metric: invalidValues, "
                "arguments: {validValues: [negative, positive]}, mustBe: 0}]"
            ),
        )
    return labels

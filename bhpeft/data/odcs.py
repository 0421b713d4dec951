"""Read an Open Data Contract Standard document and find its table and its columns' roles.

The standard's own Pydantic model reads the file; it ignores unknown keys below the top level, so
a misspelt `requierd: true` would pass in silence. Those are refused here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from open_data_contract_standard.model import OpenDataContractStandard
from pydantic import BaseModel, ValidationError

from bhpeft.errors import ContractFileError, did_you_mean

# The roles that mean the same whatever is predicted; what a row and its answer are is the task's.
ANY_TASK = ("key", "slice", "event_time")
ROLES = ("text", "label", "target", "question", "option", "options", "answer", *ANY_TASK)


def read(path: Path) -> OpenDataContractStandard:
    """Parse a contract file and refuse keys the standard does not know.

    Raises:
        ContractFileError: no such file, no YAML, no ODCS v3 document, or an unknown key.
    """
    raw = _yaml(path)
    try:
        document = OpenDataContractStandard(**raw)
    except (ValidationError, TypeError) as problem:
        raise ContractFileError(
            f"{path} is not an Open Data Contract Standard document",
            found=_first_problem(problem),
            expected="an ODCS v3.1 data contract",
            remedy="`bhpeft init` writes a commented one to start from.",
        ) from problem
    _refuse_unknown_keys(raw, document, str(path))
    _require_header(document, path)
    return document


def only_table(document: OpenDataContractStandard, path: Path) -> Any:
    """Return the contract's one table.

    Raises:
        ContractFileError: no table, several tables, no columns, or two columns of one name.
    """
    tables = document.schema_ or []
    if len(tables) != 1 or not tables[0].properties:
        raise ContractFileError(
            f"{path} does not describe one table",
            found=f"{len(tables)} entries under `schema`"
            + ("" if len(tables) != 1 else " without `properties`"),
            expected="one, with its columns under `properties`",
            remedy="Write one contract file for each stream's table.",
        )
    names = [p.name for p in tables[0].properties]
    if None in names or len(set(names)) < len(names):
        raise ContractFileError(
            f"{path} has a column without a name, or two of one name",
            found=", ".join(str(name) for name in names),
            expected="a different `name` for every property",
            remedy="Name each column once.",
        )
    return tables[0]


def roles_of(declared: Any, path: Path) -> tuple[str, ...]:
    """Return the roles a column plays: `bhpeft.role` is one role or a list of them."""
    roles: list[str] = []
    for custom in declared.customProperties or []:
        if not (custom.property or "").startswith("bhpeft."):
            continue
        where = f"{path}, column {declared.name!r}"
        require_known("custom property", custom.property, ("bhpeft.role",), where)
        given = custom.value if isinstance(custom.value, list) else [custom.value]
        for role in given:
            require_known("role", role, ROLES, where)
        roles.extend(given)
    return tuple(roles)


def logical_type(declared: Any, known: Iterable[str], where: str) -> str:
    """Return the column's logical type.

    Raises:
        ContractFileError: it has none, or one that no batch can hold.
    """
    require_known("logicalType", declared.logicalType, tuple(known), where)
    return str(declared.logicalType)


def require_known(kind: str, found: Any, known: tuple[str, ...], where: str) -> None:
    """Refuse a word that is not among the known ones.

    Raises:
        ContractFileError: names the closest known word.
    """
    if found in known:
        return
    raise ContractFileError(
        f"{where} has a {kind} that bhpeft does not know",
        found=repr(found),
        expected=f"one of {', '.join(known)}" if known else f"no {kind}",
        remedy=did_you_mean(str(found), known),
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ContractFileError(
            f"The contract {path} cannot be read",
            found=str(problem.strerror),
            expected="an ODCS v3.1 YAML file",
            remedy="Correct the path in the stream file, or write one with `bhpeft init`.",
        ) from problem
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ContractFileError(
            f"The contract {path} is not YAML",
            found=" ".join(str(problem).split()),
            expected="an ODCS v3.1 YAML file in UTF-8",
            remedy="Correct the line it names.",
        ) from problem
    if not isinstance(raw, dict):
        raise ContractFileError(
            f"The contract {path} holds no document",
            found=f"a {type(raw).__name__}",
            expected="keys such as apiVersion, kind, id, version and schema",
            remedy="`bhpeft init` writes a commented one to start from.",
        )
    return raw


def _first_problem(problem: ValidationError | TypeError) -> str:
    if isinstance(problem, TypeError):
        return str(problem)
    first = problem.errors()[0]
    place = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"the key {place!r}. {did_you_mean(place, _aliases(OpenDataContractStandard))}"
    return f"{place}: {first['msg']}"


def _aliases(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _refuse_unknown_keys(raw: Any, parsed: Any, where: str) -> None:
    for place, key, known in _unknown_keys(raw, parsed, where):
        raise ContractFileError(
            f"{place} has a key the standard does not know",
            found=repr(key),
            expected="a key of ODCS v3.1",
            remedy=did_you_mean(str(key), known),
        )


def _unknown_keys(raw: Any, parsed: Any, where: str) -> Iterator[tuple[str, Any, Iterable[str]]]:
    if isinstance(parsed, BaseModel) and isinstance(raw, dict):
        known = _aliases(type(parsed))
        for key, value in raw.items():
            if key not in known:
                yield where, key, known
            else:
                yield from _unknown_keys(value, getattr(parsed, known[key]), f"{where}, {key}")
    elif isinstance(parsed, list) and isinstance(raw, list):
        for position, (value, model) in enumerate(zip(raw, parsed, strict=True)):
            name = getattr(model, "name", None) or position
            yield from _unknown_keys(value, model, f"{where}[{name}]")


def _require_header(document: OpenDataContractStandard, path: Path) -> None:
    if document.kind != "DataContract" or not (document.apiVersion or "").startswith("v3."):
        raise ContractFileError(
            f"{path} is not an ODCS v3 data contract",
            found=f"kind: {document.kind}, apiVersion: {document.apiVersion}",
            expected="kind: DataContract and apiVersion: v3.1.0",
            remedy="Write both at the top of the file.",
        )
    missing = [key for key in ("id", "version") if not getattr(document, key)]
    if missing:
        raise ContractFileError(
            f"{path} has no {' and no '.join(missing)}",
            expected="both, since every version learned from a batch records them",
            remedy="Write for example `id: urn:bhpeft:reviews` and `version: 1.0.0`.",
        )

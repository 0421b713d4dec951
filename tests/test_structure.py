"""The house as a picture of its imports: each part leans only on parts below it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Arrows run from the end of this list to its beginning, never back and never sideways.
LAYERS = (
    {"bhpeft.allocator", "bhpeft.secrecy", "bhpeft.threads"},
    {"bhpeft.errors"},
    {"bhpeft.plugins", "bhpeft.section"},
    {"bhpeft.operation", "bhpeft.delivery"},
    {"bhpeft.posterior"},
    {"bhpeft.methods"},
    {"bhpeft.models"},
    {"bhpeft.tasks"},
    {"bhpeft.learning"},
    {
        "bhpeft.data",
        "bhpeft.exchange",
        "bhpeft.judgement",
        "bhpeft.stream",
        "bhpeft.stream_template",
    },
    {"bhpeft.registry", "bhpeft.demo_data"},
    {"bhpeft.rounds"},
    {"flows"},
    {"bhpeft.cli"},
)
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

# Behind each door one heavy library, for everybody else to do without.
DOORS = {
    "mlflow": ("bhpeft/registry/",),
    "prefect": ("flows/",),
    "evidently": ("bhpeft/judgement/evidently_report.py", "bhpeft/judgement/column_drift.py"),
    "typer": ("bhpeft/cli/",),
    "matplotlib": ("bhpeft/judgement/", "bhpeft/registry/round_run.py"),
    "pandera": ("bhpeft/data/",),
    "open_data_contract_standard": ("bhpeft/data/",),
}


@cache
def sources() -> dict[str, ast.Module]:
    """Return every module of ours by its path, parsed."""
    found = [*(ROOT / "bhpeft").rglob("*.py"), *(ROOT / "flows").rglob("*.py")]
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(found)
    }


def imports(path: str, *, on_load: bool = False) -> Iterator[str]:
    """Yield what a module imports, dotted; with `on_load` not what its functions import later."""
    for node in _loaded(sources()[path]) if on_load else ast.walk(sources()[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; its part cannot be read off"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what runs when a module is imported: no functions, nothing only for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _loaded(child)


def part_of(name: str) -> str:
    """Return the part a module or an imported name belongs to."""
    pieces = name.removesuffix(".py").replace("/", ".").split(".")
    return pieces[0] if pieces[0] == "flows" else ".".join(pieces[:2])


def outside(path: str) -> set[str]:
    """Return the libraries a module imports that are neither ours nor Python's."""
    roots = {name.split(".")[0] for name in imports(path)}
    return roots - sys.stdlib_module_names - {"bhpeft", "flows"}


def of(prefix: str) -> list[str]:
    found = [path for path in sources() if path.startswith(prefix)]
    assert found, f"there is nothing at {prefix}"
    return found


def test_every_part_has_its_place_in_the_order() -> None:
    """A new part has to say what it may lean on."""
    parts = {part_of(path) for path in sources()} - {"bhpeft.__init__"}
    assert parts == set(LEVEL)


def test_arrows_never_run_back() -> None:
    """As drawn: posterior → methods → models → learning → data, judgement → registry → rounds.

    The package itself leans on the first layer only: telemetry is off before anything else.
    """
    wrong = [
        f"{path} imports {name}"
        for path in sources()
        for name in imports(path)
        if name.startswith(("bhpeft.", "flows"))
        and part_of(name) != part_of(path)
        and part_of(name) in LEVEL
        and LEVEL[part_of(name)] >= LEVEL.get(part_of(path), 1)
    ]
    assert wrong == []


def test_the_numerics_know_torch_and_nothing_else() -> None:
    for path in of("bhpeft/posterior/"):
        assert outside(path) <= {"torch"}, path
        ours = {part_of(n) for n in imports(path) if n.startswith("bhpeft")}
        assert ours <= {"bhpeft.posterior", "bhpeft.errors", "bhpeft.plugins"}, path


def test_the_methods_know_torch_and_transformers_and_no_posterior() -> None:
    """The model never knows that it is Bayesian."""
    for path in of("bhpeft/methods/") + of("bhpeft/models/"):
        assert not any(name.startswith("bhpeft.posterior") for name in imports(path)), path
    for path in of("bhpeft/methods/"):
        assert outside(path) <= {"torch", "transformers"}, path


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_one_door(library: str) -> None:
    users = {path for path in sources() if library in outside(path)}
    assert users, f"nobody uses {library}: its door can go"
    assert [path for path in users if not path.startswith(DOORS[library])] == []


def test_the_flows_know_prefect_and_no_numerics() -> None:
    """Thin: what they orchestrate is the library's business."""
    for path in of("flows/"):
        heavy = {"torch", "transformers", "mlflow", "evidently", "safetensors", "numpy"}
        assert not outside(path) & heavy, path


def test_the_library_never_knows_prefect() -> None:
    assert [p for p in of("bhpeft/") if "prefect" in outside(p)] == []


def modules_after(code: str) -> set[str]:
    """Return the modules that are loaded after `code` has run in a fresh interpreter."""
    report = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_numerics_does_not_load_transformers() -> None:
    loaded = modules_after("import bhpeft.posterior")
    assert "torch" in loaded
    assert not loaded & {"transformers", "mlflow", "prefect", "evidently", "pandas", "pydantic"}


def test_looking_for_pending_batches_loads_nothing_that_learns() -> None:
    """A schedule asks every minute; what it needs to answer is the landing folder and MLflow."""
    loaded = modules_after("import bhpeft.rounds, bhpeft.stream, bhpeft.registry, bhpeft.plugins")
    assert not loaded & {"torch", "transformers", "mlflow", "evidently", "prefect", "matplotlib"}


def test_naming_a_task_loads_no_torch() -> None:
    """A stream file and a contract are read far more often than anything is learned."""
    loaded = modules_after("import bhpeft.tasks")
    assert not loaded & {"torch", "transformers", "pandas", "sklearn", "scipy"}


def test_help_is_shown_without_loading_anything_heavy() -> None:
    code = (
        "from typer.testing import CliRunner\n"
        "from bhpeft.cli import app\n"
        "shown = CliRunner().invoke(app, ['--help'])\n"
        "assert shown.exit_code == 0 and 'rollback' in shown.output, shown.output"
    )
    loaded = modules_after(code)
    assert not loaded & {"torch", "transformers", "mlflow", "prefect", "evidently", "pandas"}


def test_the_library_never_pickles_prints_or_leaves() -> None:
    """Tensors are safetensors, words are the caller's to show, ends are exceptions."""
    forbidden = {"print", "exit", "quit", "breakpoint", "torch.save", "torch.load", "sys.exit"}
    forbidden |= {"torch.manual_seed", "np.random.seed", "random.seed", "os._exit"}
    wrong = []
    for path in of("bhpeft/"):
        for node in ast.walk(sources()[path]):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden:
                wrong.append(f"{path}:{node.lineno} {ast.unparse(node.func)}")
        wrong += [f"{path} {name}" for name in imports(path) if name.split(".")[0] in PICKLES]
    assert wrong == []


def test_no_table_is_written_that_a_spreadsheet_would_run() -> None:
    """A cell that begins with = + - or @ is a formula to a spreadsheet, and a tweet to a model.

    Texts are learned as they are, so they are never written as CSV: records are Parquet and JSON.
    """
    writers = {"to_csv", "to_excel", "write_csv", "csv.writer", "csv.DictWriter"}
    wrong = [
        f"{path}:{node.lineno}"
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (name := ast.unparse(node.func))
        and (name in writers or name.rpartition(".")[2] in writers)
    ]
    assert wrong == []


PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def test_no_exception_is_caught_without_a_name_or_swallowed() -> None:
    """`except:` and `except Exception: pass` hide what a person on call needs to know."""
    wrong = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            wide = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if node.type is None or (wide and node.name is None and not raises):
                wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


SAYS_NOTHING = {"manager", "helper", "util", "common", "misc", "base", "core", "engine", "handler"}


def test_no_file_or_class_has_a_name_that_says_nothing() -> None:
    names = [Path(path).stem for path in sources()]
    for tree in sources().values():
        names += [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    last = {name: re.findall(r"[A-Z]?[a-z]+|$", name)[-2:][0].lower() for name in names}
    empty = [name for name in names if last[name].rstrip("s") in SAYS_NOTHING]
    # The frozen base model is the field's own word.
    assert empty == ["LoadedBase"]


def test_every_module_says_what_it_is_for() -> None:
    wrong = [
        path
        for path, tree in sources().items()
        if path != "bhpeft/__init__.py" and not ast.get_docstring(tree)
    ]
    assert wrong == []

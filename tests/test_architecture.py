"""Imports run one way, between rooms and between files, and importing starts nothing."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import gradflow

ROOT = Path(gradflow.__file__).parent

# A file may import from its own room and from the rooms above it. Within a line the order is that of imports.
ROOMS = [
    "_types _dtypes _vocabulary _errors _tracebacks _checked _missing_names _tables _shardings _platform"
    " _kernel_hints _equations _products",
    "_coding",
    "tree",
    "packed",
    "_expressions _calls",
    "_rules numerics",
    "_core",
    "_selection",
    "typing linalg",
    "matrices",
    "schedules proximals",
    "transforms",
    "wrappers",
    "aggregating",
    "optimizers",
    "_training _inspection",
    "checkpoint sharding",
    "losses",
    "projections perturbations assignment microbatching",
    "_api _former_modules states",
    "interop compat",
    "lab",
    "__main__",
]
LEVEL = {
    name: (level, place) for level, names in enumerate(ROOMS) for place, name in enumerate(names.split())
}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(source: str, package: str, known: Mapping[str, object]) -> Iterator[tuple[int, str]]:
    """The modules of gradflow that a source imports, with line numbers.

    Imports inside functions count, and so do `import_module` and `__import__` of a text. Imports for type
    checkers alone do not.
    """
    tree = ast.parse(source)
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found = full if full in known else base
                if found in known:
                    yield node.lineno, found
        elif (
            isinstance(node, ast.Constant) and str(node.value).startswith("gradflow.") and node.value in known
        ):
            # A text that is spelled like one of the modules is there to be imported.
            yield node.lineno, node.value
        elif isinstance(node, ast.Call) and ast.unparse(node).endswith("import_module('gradflow')"):
            yield node.lineno, "gradflow"


def _imports(module: str) -> list[tuple[int, str]]:
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = imports_of(path.read_text(), package, FILES)
    return [(line, other) for line, other in found if other != module]


def _room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def test_every_room_has_a_place() -> None:
    assert {_room(module) for module in FILES} - {"__init__"} == set(LEVEL)


def test_the_table_of_rooms_is_complete_and_in_order() -> None:
    text = (ROOT.parent / ".github" / "CONTRIBUTING.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    rooms = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(rooms) == sorted(set(LEVEL) - {"__main__"})
    levels = [max(LEVEL[name][0] for name in re.findall(r"`(\w+)`", row)) for row in rows]
    assert levels == sorted(levels)


def test_imports_point_to_earlier_rooms() -> None:
    wrong = [
        f"{FILES[module].relative_to(ROOT)}:{line} imports {other}"
        for module in FILES
        if _room(module) != "__init__"
        for line, other in _imports(module)
        if _room(other) != _room(module)
        and (_room(other) == "__init__" or LEVEL[_room(other)] > LEVEL[_room(module)])
    ]
    assert not wrong, "\n".join(wrong)


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of two or more nodes that reach each other (Tarjan 1972), and nodes that reach themselves."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_no_circle_of_files() -> None:
    graph = {module: {other for _, other in _imports(module)} for module in FILES}
    # The package's own file holds nothing that others import.
    assert circles(graph) == []


@pytest.mark.parametrize(
    "source",
    [
        "from gradflow import b",
        "from gradflow.b import x",
        "import gradflow.b",
        "def f():\n    from gradflow.b import x",
        "import importlib\nimportlib.import_module('gradflow.b')",
        "m = import_module('gradflow.b')",
        "NAME = 'gradflow.b'",
        "from .b import x",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    known = {"gradflow": 0, "gradflow.a": 0, "gradflow.b": 0}
    assert "gradflow.b" in [other for _, other in imports_of(source, "gradflow", known)]


def test_imports_for_type_checkers_are_not_counted() -> None:
    source = "if TYPE_CHECKING:\n    from gradflow import b\nelse:\n    from gradflow import a"
    found = [other for _, other in imports_of(source, "gradflow", {"gradflow.a": 0, "gradflow.b": 0})]
    assert found == ["gradflow.a"]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_losses_know_nothing_of_optimizers() -> None:
    words = {"_dtypes", "_errors", "_tracebacks", "_checked", "_missing_names"}
    allowed = {"losses", "tree", "_platform", *words}
    for module in FILES:
        if _room(module) == "losses":
            assert {_room(other) for _, other in _imports(module)} <= allowed, module


def test_results_know_nothing_of_plots() -> None:
    for module in FILES:
        if module.startswith("gradflow.lab._results"):
            assert not [other for _, other in _imports(module) if "_plots" in other], module


def test_importing_starts_no_backend_and_no_optional_dependency() -> None:
    script = """
import sys, jax
before = dict(jax.config.values)
import gradflow
assert dict(jax.config.values) == before, "the configuration of jax was touched"
gradflow.adamw, gradflow.losses  # loads the library
assert dict(jax.config.values) == before, "the configuration of jax was touched"
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "a backend was started"
optional = {"matplotlib", "sklearn", "tqdm", "optax", "flax", "gradflow.lab", "pandas", "chex"}
assert not optional & set(sys.modules), optional & set(sys.modules)
"""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr


def test_it_loads_without_docstrings() -> None:
    """Docstrings are composed when a room is loaded, and `python -OO` has none."""
    subprocess.run([sys.executable, "-OO", "-c", "import gradflow; gradflow.adamw"], check=True)

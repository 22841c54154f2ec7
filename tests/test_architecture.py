"""Imports point only to earlier rooms, and importing the package costs little and starts nothing."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import gradflow

ROOT = Path(gradflow.__file__).parent

# A file may import from its own room and from the ones above it.
ROOMS = [
    "_dtypes _errors _frames _groups _hyper _packed",
    "_cures packed",
    "tree",
    "_state _expression _display _function_value numerics",
    "_checks _whole _stage _base",
    "_address _config _leafwise _report _selectors _select _axes",
    "_apply _compose",
    "typing linalg",
    "schedules",
    "transforms",
    "wrappers",
    "aggregating",
    "optimizers",
    "_step _minimize _check _summary",
    "checkpoint",
    "losses",
    "projections perturbations assignment microbatching",
    "interop compat",
    "lab",
    "__main__",
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}


def _room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> list[tuple[int, str]]:
    """The rooms that a file imports, lazily or not, with line numbers."""
    package = ("gradflow", *path.relative_to(ROOT).parts[:-1])
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "gradflow":
                    found.append((node.lineno, alias.name.partition(".")[2].split(".")[0] or "gradflow"))
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            base = [*package[: len(package) - node.level + 1], *module] if node.level else module
            if base[:1] == ["gradflow"]:
                rooms = base[1:2] or [alias.name for alias in node.names]
                found.extend((node.lineno, room) for room in rooms)
    return found


def test_imports_point_to_earlier_rooms() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        room = _room(path)
        if room in ("__init__", "_names"):
            continue  # the phone book of all rooms
        assert room in LEVEL, f"{room} is in no layer: give it a place in ROOMS"
        for line, other in _imports(path):
            if other == room:
                continue
            if LEVEL.get(other, len(ROOMS)) >= LEVEL[room] and other not in _same_layer(room):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert not wrong, "\n".join(wrong)


def _same_layer(room: str) -> list[str]:
    # Within a layer of private files the order of the list is the order of imports.
    names = ROOMS[LEVEL[room]].split()
    return names[: names.index(room)]


def test_losses_know_nothing_of_optimizers() -> None:
    allowed = {"losses", "tree", "_dtypes", "_errors"}
    for path in (ROOT / "losses").rglob("*.py"):
        assert {room for _, room in _imports(path)} <= allowed, path.name


def test_every_layer_names_a_file() -> None:
    for name in LEVEL:
        assert (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file(), name


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

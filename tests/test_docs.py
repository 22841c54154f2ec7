"""The docstrings make pages: every public name has its entry, and nothing is amiss."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import gradflow

ROOMS = [
    "optimizers", "wrappers", "transforms", "schedules", "losses", "tree", "projections", "perturbations",
    "assignment", "microbatching", "linalg", "numerics", "aggregating", "checkpoint", "interop",
    "typing", "lab",
]  # fmt: skip


def public(module: ModuleType) -> list[str]:
    """The names of a room's phone book, or of the one file that a room is."""
    is_package = hasattr(module, "__path__")
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and (
            is_package
            or getattr(value, "__module__", None) == module.__name__
            or module.__name__.endswith("typing")
        )
    ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pdoc = pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("pages")
    modules = [importlib.import_module(f"gradflow.{room}") for room in ROOMS]
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "__all__", public(module), raising=False)
        pdoc.render.configure(docformat="markdown", math=True)
        hidden = [f"!gradflow.{room}._.*" for room in ROOMS]
        pdoc.pdoc("gradflow", r"!gradflow\._.*", *hidden, output_directory=folder)
    return folder


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_its_entry(pages: Path, room: str) -> None:
    module = importlib.import_module(f"gradflow.{room}")
    page = (pages / "gradflow" / f"{room}.html").read_text()
    names = public(module)
    assert names
    missing = [name for name in names if f'id="{name}"' not in page]
    assert not missing


def test_the_top_level_has_its_page(pages: Path) -> None:
    page = (pages / "gradflow.html").read_text()
    for name in ("chain", "adamw", "make_step", "summary", "paths", "state_dict"):
        assert f'id="{name}"' in page, name


def test_examples_in_docstrings_run() -> None:
    attempted = 0
    for info in pkgutil.walk_packages(gradflow.__path__, "gradflow."):
        if not info.name.endswith("__main__"):
            result = doctest.testmod(importlib.import_module(info.name))
            assert result.failed == 0, info.name
            attempted += result.attempted
    assert attempted >= 5, "there is something to run"

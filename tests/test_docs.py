"""The docstrings make pages: every public name has its entry, and nothing is amiss."""

import doctest
import importlib
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import gradflow

ROOMS = [
    "optimizers", "wrappers", "transforms", "schedules", "losses", "tree", "projections", "perturbations",
    "assignment", "microbatching", "linalg", "numerics", "aggregating", "checkpoint", "interop",
    "packed", "typing", "states", "lab",
]  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pdoc = pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("pages")
    pdoc.render.configure(docformat="markdown", math=True)
    hidden = [f"!gradflow.{room}._.*" for room in ROOMS]
    with warnings.catch_warnings():
        # Deprecated names of the field are looked at like all others.
        warnings.simplefilter("ignore", DeprecationWarning)
        pdoc.pdoc("gradflow", r"!gradflow\._.*", *hidden, output_directory=folder)
    return folder


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_its_entry(pages: Path, room: str) -> None:
    module = importlib.import_module(f"gradflow.{room}")
    page = (pages / "gradflow" / f"{room}.html").read_text()
    missing = [name for name in module.__all__ if f'id="{name}"' not in page]
    assert not missing


def test_the_top_level_has_its_page(pages: Path) -> None:
    page = (pages / "gradflow.html").read_text()
    for name in ("chain", "adamw", "make_step", "summary", "paths", "state_dict"):
        assert f'id="{name}"' in page, name


def test_signatures_name_the_kinds_of_arguments(pages: Path) -> None:
    page = re.sub(r"<[^>]+>|\s", "", (pages / "gradflow" / "optimizers.html").read_text())
    assert "defadamw(learning_rate:Rate,b1:Decay=0.9,b2:Decay=0.999" in page
    assert "Annotated" not in page


def test_examples_in_docstrings_run() -> None:
    attempted = 0
    for info in pkgutil.walk_packages(gradflow.__path__, "gradflow."):
        if not info.name.endswith("__main__"):
            result = doctest.testmod(importlib.import_module(info.name))
            assert result.failed == 0, info.name
            attempted += result.attempted
    assert attempted >= 5, "there is something to run"

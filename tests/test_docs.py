"""The docstrings make pages: every public name has its entry, and nothing is amiss."""

import doctest
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path

import pytest

import gradflow
from gradflow.lab._cli._catalogue import _factories
from gradflow.optimizers._descriptions import ABOUT

ROOMS = [
    "optimizers", "wrappers", "transforms", "schedules", "proximals", "losses", "tree", "projections",
    "perturbations", "assignment", "microbatching", "linalg", "numerics", "aggregating", "checkpoint",
    "interop", "packed", "typing", "states", "matrices", "sharding", "lab",
]  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pdoc = pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("pages")
    pdoc.render.configure(docformat="markdown", math=True)
    with warnings.catch_warnings():
        # Deprecated names of the field are looked at like all others.
        warnings.simplefilter("ignore", DeprecationWarning)
        # The names of `compat` are those of the other pages, and are found when they are asked for.
        pdoc.pdoc("gradflow", "!gradflow.compat", output_directory=folder)
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


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_the_docstring_of_an_optimizer_stands_by_itself(name: str) -> None:
    factory = getattr(gradflow, name)
    text = factory.__doc__
    described = re.findall(r"^  (\w+): \S", text, re.M)
    assert described == list(factory.__gradflow__.parameters), "every argument, in the signature's order"
    assert re.search(r"\n\n    \S.*(=|<-)", text), "the rule"
    assert "\nWhen to try it: " in text
    assert text.count("Source: ") == 1
    assert not re.search(r"\bothers?\b[^.]* as in `", text, re.IGNORECASE), "it points elsewhere"
    assert max(map(len, text.splitlines())) <= 110
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert len(example.examples) == 2
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


def test_every_optimizer_is_in_the_table() -> None:
    assert set(_factories()) == set(ABOUT)


def test_a_text_about_an_argument_is_written_once() -> None:
    text = "b1: decay of the first moment, in [0, 1)."
    assert text in gradflow.adam.__doc__
    assert text in gradflow.lamb.__doc__
    assert text not in inspect.getsource(gradflow.adam)


@pytest.mark.parametrize("room", ["optimizers", "wrappers", "transforms"])
def test_functions_come_before_states(pages: Path, room: str) -> None:
    page = (pages / "gradflow" / f"{room}.html").read_text()
    names = importlib.import_module(f"gradflow.{room}").__all__
    names = sorted(names, key=lambda name: page.index(f'id="{name}"'))
    is_class = [inspect.isclass(getattr(gradflow, name)) for name in names]
    assert is_class == sorted(is_class)


# Rooms of factories, which are decorated, so that a search of their modules does not find their examples.
FACTORIES = ["schedules", "transforms", "wrappers", "aggregating", "optimizers"]


def test_examples_in_docstrings_run() -> None:
    """Of all other rooms; a module without one is not searched, which takes most of the time."""
    run = doctest.DocTestRunner(verbose=False)
    for info in pkgutil.walk_packages(gradflow.__path__, "gradflow."):
        if info.name.split(".")[1] not in (*FACTORIES, "__main__"):
            module = importlib.import_module(info.name)
            if ">>>" in inspect.getsource(module):
                for example in doctest.DocTestFinder(exclude_empty=True).find(module):
                    run.run(example)
    assert run.tries >= 15, "there is something to run"
    assert run.failures == 0


@pytest.mark.parametrize("room", FACTORIES)
def test_every_factory_has_an_example_that_runs(room: str) -> None:
    module = importlib.import_module(f"gradflow.{room}")
    run = doctest.DocTestRunner(verbose=False)
    without = []
    for name in set(module.__all__) - set(ABOUT):
        value = vars(module)[name]
        example = doctest.DocTestParser().get_doctest(value.__doc__ or "", {}, name, None, None)
        if inspect.isfunction(value) and not example.examples:
            without.append(name)
        run.run(example)
    assert without == []
    assert run.tries > 10
    assert run.failures == 0

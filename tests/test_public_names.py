"""Public names: documented, reachable at one place, and none that was not meant."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import gradflow as gf
from gradflow._expressions._registry import OWN_FACTORIES

ROOMS = ["tree", "schedules", "transforms", "wrappers", "optimizers", "losses"]
ALL_ROOMS = sorted(
    name
    for name in dir(gf)
    if isinstance(getattr(gf, name), ModuleType) and name not in ("compat", "states")  # made from the others
)
TOP_LEVEL_ROOMS = ["losses", "schedules", "transforms", "wrappers", "optimizers"]


def public(module: ModuleType) -> dict[str, object]:
    values = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {name: value for name, value in values.items() if not isinstance(value, ModuleType)}


@pytest.mark.parametrize("room", TOP_LEVEL_ROOMS)
def test_a_rooms_names_are_top_level_names(room: str) -> None:
    for name, value in public(importlib.import_module(f"gradflow.{room}")).items():
        assert getattr(gf, name) is value, name


@pytest.mark.parametrize("room", ROOMS)
def test_public_functions_and_classes_are_documented(room: str) -> None:
    for name, value in public(importlib.import_module(f"gradflow.{room}")).items():
        if inspect.isclass(value) or inspect.isfunction(value):
            text = value.__doc__ or ""
            assert text, f"{room}.{name} has no docstring"
            assert not text.startswith(f"{name}("), f"{room}.{name} has only the one that Python made"
            # The docstrings of optimizers are composed, and describe up to 21 arguments.
            assert len(text.splitlines()) <= 40 + text.count(">>>") * 5, (
                f"{room}.{name}: {len(text.splitlines())} lines"
            )


def test_every_room_is_reached_by_its_name() -> None:
    root = Path(gf.__file__).parent
    on_disk = {p.stem for p in root.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    rooms = {name for name in on_disk if not name.startswith("_")}
    assert rooms <= set(dir(gf))
    assert all(getattr(gf, room).__name__ == f"gradflow.{room}" for room in rooms)


@pytest.mark.parametrize("room", ALL_ROOMS)
def test_a_room_lists_what_it_holds(room: str) -> None:
    module = getattr(gf, room)
    defined = {
        name
        for name, value in public(module).items()
        if hasattr(module, "__path__")
        or room == "typing"
        or getattr(value, "__module__", None) == module.__name__
    }
    assert set(module.__all__) == defined - {"Any", "TYPE_CHECKING"}
    assert len(module.__all__) == len(set(module.__all__))


def test_states_are_listed_apart_from_functions() -> None:
    states = gf.states.__all__
    assert {"EmptyState", "ScaleByAdamState", "MultiStepsState", "MaskedNode"} <= set(states)
    assert not set(states) & set(dir(gf))
    for name in states:
        assert getattr(gf, name) is getattr(gf.states, name)
    listed = [n for n in dir(gf) if isinstance(getattr(gf, n), type) and hasattr(getattr(gf, n), "_fields")]
    assert not [name for name in listed if name.endswith("State")]
    namespace: dict[str, object] = {}
    exec("from gradflow import *", namespace)
    assert set(states) <= set(namespace)


def test_every_factory_is_public() -> None:
    for name, factory in OWN_FACTORIES.items():
        assert getattr(gf, name) is factory.function, name


def test_no_module_or_helper_leaks_to_the_top() -> None:
    for name, value in public(gf).items():
        module = getattr(value, "__module__", None) or ""
        assert not module.startswith(("jax.numpy", "numpy")), name


def test_state_fields_are_named_tuples_with_docstrings() -> None:
    states = [getattr(gf.states, name) for name in gf.states.__all__]
    assert len(states) > 50
    for state in states:
        assert issubclass(state, tuple), state
        assert hasattr(state, "_fields"), state
        assert state.__doc__, state
        assert not state.__doc__.startswith(state.__name__ + "("), state


def test_unknown_names_say_which_are_near() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'adamv'. Did you mean .*'adam'"):
        _ = gf.adamv


def test_a_star_import_gives_the_public_names() -> None:
    namespace: dict[str, object] = {}
    exec("from gradflow import *", namespace)
    assert namespace["adamw"] is gf.adamw
    assert namespace["losses"] is gf.losses

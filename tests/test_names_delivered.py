"""Every public name of the field's standard, against `gradflow.compat`: there, and called in the same way.

`python tests/test_names_delivered.py` prints the count. `field_names.json` lists names, parameters with
defaults, and fields of states.
"""

import ast
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gradflow
from gradflow import compat

FIELD: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "field_names.json").read_text())

# Listed names that are not part of the library's surface.
LEFT_OUT = {
    "experimental.aggregating.NamedTuple": "an import of another module that leaks from the list's source",
    "experimental.aggregating.Protocol": "likewise",
    "experimental.aggregating.Sequence": "likewise",
    "monte_carlo": "removed from the field too: asking for it raises AttributeError there",
}

# Names that are called in another way, and why.
CALLED_OTHERWISE: dict[str, str] = {
    "scale_by_learning_rate": "the field's rate may be None, and then the step climbs; ours is required",
}

# States with more or other fields, and why.
OTHER_FIELDS: dict[str, str] = {}

NAMES = {
    f"{module}.{name}".lstrip("."): entry for module, names in FIELD.items() for name, entry in names.items()
}


def given_up(name: str) -> bool:
    """Whether a name, or what it is another name of, is deprecated."""
    entry = NAMES.get(name, {})
    return bool(entry.get("deprecated")) or (
        entry.get("same as", name) != name and given_up(entry["same as"])
    )


WANTED = {name: entry for name, entry in NAMES.items() if name not in LEFT_OUT and not given_up(name)}


def find(path: str) -> Any:
    value: Any = compat
    for name in path.split("."):
        value = getattr(value, name)
    return value


def missing() -> list[str]:
    absent = []
    for path in WANTED:
        try:
            find(path)
        except AttributeError:
            absent.append(path)
    return absent


def test_every_name_is_there() -> None:
    assert not missing()


def test_given_up_names_work_with_a_warning_that_says_what_took_their_place() -> None:
    for module, names in FIELD.items():
        for name, entry in names.items():
            path = f"{module}.{name}".lstrip(".")
            if entry.get("deprecated") and not hasattr(gradflow, name) and path not in LEFT_OUT:
                with pytest.warns(DeprecationWarning, match=f"{name} is deprecated; use "):
                    find(path)


def test_namespaces_are_modules() -> None:
    from gradflow.compat.contrib import muon  # type: ignore[import-not-found]  # made when asked for
    from gradflow.compat.tree_utils import tree_add  # type: ignore[import-not-found]

    assert muon is gradflow.muon
    assert tree_add is gradflow.tree.add
    assert isinstance(compat.contrib, ModuleType)
    assert "tree_add" in dir(compat.tree_utils)
    assert "adam" in dir(compat)


@pytest.mark.parametrize("path", [p for p, e in WANTED.items() if "same as" in e])
def test_one_thing_under_several_names_is_one_thing(path: str) -> None:
    other = WANTED[path]["same as"]
    if other in WANTED and not other.endswith("EmptyState"):
        assert find(path) is find(other)


@pytest.mark.parametrize("path", [p for p, e in WANTED.items() if "parameters" in e])
def test_a_call_means_what_it_meant(path: str) -> None:
    """The same parameters in the same order with the same defaults; ours may have more, by keyword."""
    if path in CALLED_OTHERWISE:
        pytest.skip(CALLED_OTHERWISE[path])
    ours = list(inspect.signature(find(path)).parameters.values())
    keyword_only = False
    remaining = [p for p in ours if p.kind is not p.KEYWORD_ONLY]
    by_name = {p.name: p for p in ours}
    for name, *default in WANTED[path]["parameters"]:
        if name in ("*", "/"):
            keyword_only = keyword_only or name == "*"
            continue
        if name.startswith("*"):
            assert any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in ours), name
            remaining = [p for p in remaining if p.kind is not p.VAR_POSITIONAL]
            keyword_only = True
            continue
        if not keyword_only:
            assert remaining, f"nothing takes '{name}' by position"
            assert remaining.pop(0).name == name
        assert name in by_name, f"no argument '{name}'"
        has_default = by_name[name].default is not inspect.Parameter.empty
        assert has_default or not default, f"'{name}' has a default in the field"
        if default and default[0] is not None and has_default:
            assert by_name[name].default == ast.literal_eval(default[0]), name
    required = [
        p.name for p in ours if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    listed = {name for name, *_ in WANTED[path]["parameters"]}
    assert set(required) <= listed


@pytest.mark.parametrize("path", [p for p, e in WANTED.items() if "fields" in e])
def test_a_states_fields_are_where_they_were(path: str) -> None:
    if path in OTHER_FIELDS:
        pytest.skip(OTHER_FIELDS[path])
    assert list(find(path)._fields)[: len(WANTED[path]["fields"])] == WANTED[path]["fields"]


if __name__ == "__main__":
    absent = missing()
    print(f"{len(WANTED) - len(absent)} of {len(WANTED)} names delivered", *absent, sep="\n  ")

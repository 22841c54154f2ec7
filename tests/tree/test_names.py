import inspect

import pytest

from gradflow import tree

optax = pytest.importorskip("optax")

OWN = {"map_with_path", "paths", "get_by_path", "set_by_path", "NamedTupleKey"}
NAMES = sorted(n for n, f in vars(optax.tree).items() if callable(f) and n[0] != "_")


def test_every_name_of_the_field_is_here_and_no_other():
    assert set(NAMES) | OWN == {n for n, f in vars(tree).items() if callable(f) and n[0] != "_"}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_the_same_names_order_and_defaults(name):
    def described(f):
        return [
            (p.name, p.kind, p.default)
            for p in inspect.signature(f).parameters.values()
            if p.name != "axis_name"
        ]

    assert described(getattr(tree, name)) == described(getattr(optax.tree, name))

import collections
import dataclasses

import jax
import pytest

from gradflow import tree

Point = collections.namedtuple("Point", "x y")


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: object
    bias: object


class Opaque:
    """A container that does not name its children."""

    def __init__(self, *parts):
        self.parts = parts


jax.tree_util.register_pytree_node(Opaque, lambda node: (node.parts, None), lambda _, parts: Opaque(*parts))

TREE = {
    "encoder": [Layer(1.0, None), Point(2.0, (3.0,))],
    "opaque": Opaque(4.0, {"a": 5.0}),
    "with/slash": {"w": 6.0},
    7: 8.0,
}


def sorted_by_text(t):
    return {str(k): v for k, v in t.items()}  # jax cannot sort mixed keys


TREE = sorted_by_text(TREE)


def test_paths_are_written_alike_for_every_container():
    assert tree.paths(TREE) == [
        "7",
        "encoder/0/kernel",
        "encoder/1/x",
        "encoder/1/y/0",
        "opaque/0",
        "opaque/1/a",
        "with/slash/w",
    ]
    assert tree.paths(1.0) == [""]
    assert tree.paths({}) == tree.paths(None) == []


def test_paths_stand_in_the_order_of_the_leaves_and_lead_back():
    found = [tree.get_by_path(TREE, path) for path in tree.paths(TREE)]
    assert found == jax.tree.leaves(TREE)


def test_map_with_path_gives_the_path_and_keeps_none():
    seen = tree.map_with_path(lambda path, a, b: (path, a + b), [1.0, None], [2.0, None])
    assert seen == [("0", 3.0), None]
    stopped = tree.map_with_path(lambda p, x: p, {"a": (1, 2)}, is_leaf=lambda x: x == (1, 2))
    assert stopped == {"a": "a"}


def test_a_path_reaches_subtrees_and_absent_leaves():
    assert tree.get_by_path(TREE, "encoder/1") == Point(2.0, (3.0,))
    assert tree.get_by_path(TREE, "encoder/0/bias") is None
    assert tree.get_by_path(TREE, "") is TREE
    assert tree.get_by_path(TREE, "with/slash") == {"w": 6.0}


def test_set_by_path_changes_one_place_of_a_copy():
    new = tree.set_by_path(TREE, "encoder/1/y/0", 9.0)
    assert tree.get_by_path(new, "encoder/1/y/0") == 9.0
    assert tree.get_by_path(TREE, "encoder/1/y/0") == 3.0
    assert jax.tree.structure(new) == jax.tree.structure(TREE)
    assert isinstance(new["encoder"][1], Point)
    assert tree.set_by_path(TREE, "", 1) == 1
    assert tree.set_by_path(TREE, "encoder/0/bias", 1.0)["encoder"][0].bias == 1.0


@pytest.mark.parametrize("use", [tree.get_by_path, lambda t, p: tree.set_by_path(t, p, 0)])
def test_an_unknown_path_names_the_near_ones(use):
    with pytest.raises(KeyError, match=r"'encoder/0/kernal'.*Did you mean 'encoder/0/kernel'"):
        use(TREE, "encoder/0/kernal")
    with pytest.raises(KeyError, match=r"Did you mean.*'encoder/0/kernel'"):
        use(TREE, "decoder/3/kernel")  # the same last segment
    with pytest.raises(KeyError, match="There are none"):
        use({}, "a")


def test_an_ambiguous_path_is_refused():
    with pytest.raises(KeyError, match=r"a/b.* is ambiguous: 2 nodes"):
        tree.get_by_path({"a": {"b": 1}, "a/b": 2}, "a/b")

"""The leaves of a tree with their paths as tuples of names."""

from typing import Any, NamedTuple

import jax

from gradflow._types import is_absent
from gradflow.packed._pack import abstract_tree
from gradflow.tree._paths import segment


class Parameter(NamedTuple):
    """A leaf of the parameters, the names on its path, and the keys that these are cut from."""

    path: tuple[str, ...]
    leaf: Any
    keys: tuple[str, ...] = ()


def named_leaves(params: Any) -> tuple[list[Parameter], Any]:
    """The leaves of a tree with their paths, absent ones included, and the tree's structure."""
    params = abstract_tree(params)
    structure = jax.tree.structure(params, is_leaf=is_absent)
    outer, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: is_absent(x) or _is_box(x))
    found: list[Parameter] = []
    for keys, node in outer:
        whole = tuple(map(segment, keys))
        path = tuple(name for key in whole for name in key.split("/") if name not in ("", "~"))
        inside = [node] if not _is_box(node) else jax.tree.leaves(node, is_leaf=is_absent)
        # nnx adds the box's field to the path of a leaf, even outside of its box.
        if keys and len(path) > 1 and path[-1] == "value" and _is_attribute(keys[-1]):
            path, whole = path[:-1], whole[:-1]
        found.extend(Parameter(path, leaf, whole) for leaf in inside)
    return found, structure


def _is_attribute(key: Any) -> bool:
    return isinstance(key, jax.tree_util.GetAttrKey)


def _is_box(node: Any) -> bool:
    """Whether a node is a box of flax, a container that adds metadata to one parameter."""
    return any(
        kind.__module__.split(".")[0] == "flax"
        and kind.__name__ in ("Variable", "VariableState", "AxisMetadata")
        for kind in type(node).__mro__
    )

"""Words for errors: who was called, what was expected, what came. Never the contents of an array."""

from typing import Any

import jax
import numpy as np


def describe(value: Any) -> str:
    """A few words for any object, such as `float32[3,4]` or `the function adamw`."""
    if value is None or isinstance(value, bool | int | float | complex):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"a {type(value).__name__}"
    if isinstance(value, dict):
        keys = [str(key) for key in value]
        shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
        return f"a dict with keys {{{shown}}}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of length {len(value)}"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"a {type(value).__name__}"


def path_string(path: tuple[Any, ...]) -> str:
    """A leaf's path as one word, `encoder/0/kernel`, alike for every kind of container."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "(the root)"


def _is_none(x: Any) -> bool:
    return x is None


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, `None` counted as a leaf."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
    return {path_string(path): leaf for path, leaf in flat}


def explain_trees(name: str, tree: Any, other_name: str, other: Any) -> str:
    """Where two trees that should have one structure first differ."""
    mine, theirs = leaves_by_path(tree), leaves_by_path(other)
    for path in mine:
        if path not in theirs:
            return f"{name} has a leaf at '{path}' ({describe(mine[path])}); {other_name} has none"
    for path in theirs:
        if path not in mine:
            return f"{name} has no leaf at '{path}'; {other_name} has ({describe(theirs[path])})"
    kinds = (type(tree).__name__, type(other).__name__)
    return f"{name} and {other_name} have the same paths in containers of different types" + (
        f" ({kinds[0]} and {kinds[1]})" if kinds[0] != kinds[1] else ""
    )

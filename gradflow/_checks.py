"""What a call of a transformation is checked for: trees that fit, leaves that count, a state of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import _cures
from gradflow._dtypes import is_complex, is_inexact, promote
from gradflow._errors import describe
from gradflow._frames import stage_name
from gradflow.tree._paths import is_none, path_string, show
from gradflow.tree._structure import explain_trees


def _as_array(leaf: Any) -> Any:
    """Python and NumPy numbers become strongly typed jax arrays; all else stays as it is."""
    if isinstance(leaf, jax.Array) or leaf is None:
        return leaf
    if isinstance(leaf, bool | int | float | complex):
        return jnp.asarray(leaf, jnp.zeros((), type(leaf)).dtype)
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "biufcV":
        return jnp.asarray(leaf) if leaf.dtype != jax.dtypes.float0 else leaf
    return leaf


def as_arrays(tree: Any) -> Any:
    """A tree whose leaves are jax arrays wherever they can be."""
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map(_as_array, tree)


def refuse_leaves(kind: str, what: str, tree: Any) -> None:
    """Raises for the first leaf that a stage cannot do arithmetic on."""
    for leaf in jax.tree.leaves(tree):
        dtype = getattr(leaf, "dtype", None)
        if not isinstance(dtype, np.dtype) or not is_inexact(dtype):
            wanted = "floating-point or complex arrays"
        elif kind == "real" and is_complex(dtype):
            wanted = "real floating-point arrays"
        else:
            continue
        flat, _ = jax.tree_util.tree_flatten_with_path(tree)
        path = next(show(path_string(path)) for path, other in flat if other is leaf)
        raise TypeError(
            f"{stage_name()}: {what} must be {wanted}, or None where there is no update; the leaf at "
            f"{path} is {describe(leaf)}.{_cures.of_leaf(leaf)}"
        )


def check_like(
    what: str,
    tree: Any,
    other_what: str,
    other: Any,
    *,
    shapes: bool = True,
    cure: Callable[[], str] = str,
) -> None:
    """Raises unless two trees have one structure (None beside anything is fine) and equal `shapes`."""
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    other_leaves, other_structure = jax.tree.flatten(other)
    if structure != other_structure:
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
        other_leaves, other_structure = jax.tree.flatten(other, is_leaf=is_none)
        if structure != other_structure:
            raise ValueError(
                f"{stage_name()}: {what} and {other_what} must have one tree structure; "
                + f"{explain_trees(what, tree, other_what, other)}."
                + (cure() or _cures.of_trees(what, tree, other_what, other))
            )
    for index, (leaf, like) in enumerate(zip(leaves, other_leaves, strict=True)):
        if shapes and leaf is not None and like is not None and np.shape(leaf) != np.shape(like):
            placed = jax.tree.unflatten(structure, range(len(leaves)))
            path = next(p for p, i in jax.tree_util.tree_leaves_with_path(placed) if i == index)
            raise ValueError(
                f"{stage_name()}: {what} and {other_what} must have equal shapes, and at "
                f"{show(path_string(path))} they are {np.shape(leaf)} and {np.shape(like)}."
                + _cures.of_shapes(np.shape(leaf), np.shape(like))
            )


def promote_to_params(updates: Any, params: Any) -> Any:
    """The updates, each leaf in the promoted dtype of itself and its parameter."""
    grads, structure = jax.tree.flatten(updates, is_leaf=is_none)
    values = jax.tree.leaves(params, is_leaf=is_none)
    changed = False
    for index, (g, p) in enumerate(zip(grads, values, strict=True)):
        if not isinstance(g, jax.Array) or not isinstance(p, jax.Array) or g.dtype == p.dtype:
            continue
        if isinstance(p.dtype, np.dtype) and is_inexact(g.dtype) and is_inexact(p.dtype):
            target = promote(g.dtype, p.dtype)
            if target != g.dtype:
                grads[index] = g.astype(target)
                changed = True
    return jax.tree.unflatten(structure, grads) if changed else updates


def real_scalar(what: str, value: Any) -> jax.Array:
    """A real number as an array; TypeError for what is no number, ValueError for one of another shape."""
    expected = f"{stage_name()}: {what} must be a real scalar"
    dtype = getattr(value, "dtype", None)
    known = isinstance(value, int | float) if dtype is None else jnp.issubdtype(dtype, np.number)
    if not known or (dtype is not None and is_complex(dtype)):
        raise TypeError(f"{expected}; got {describe(value)}")
    if np.shape(value) != ():
        raise ValueError(f"{expected}; got {describe(value)}")
    return jnp.asarray(value)


def loss_value(value: Any) -> jax.Array:
    """The extra argument `value`, the loss at the parameters, which must be a real scalar."""
    return real_scalar("the extra argument 'value', the loss,", value)


def refuse_state(expected: str, state: Any) -> None:
    """Raises the error for a state that is not the called stage's own."""
    raise TypeError(
        f"{stage_name()}: 'state' must be {expected}, as its init returns it; got {describe(state)}."
        + _cures.of_state(state)
    )


def conform(new: Any, old: Any) -> Any:
    """A stage's output: shapes must be the input's, and dtypes are made so."""
    new_structure: Any
    new_leaves, new_structure = jax.tree.flatten(new)
    old_leaves, old_structure = jax.tree.flatten(old)
    if new_structure != old_structure:
        check_like("the updates that come out", new, "those that went in", old)
        old_leaves = jax.tree.leaves(old, is_leaf=is_none)
        new_leaves, new_structure = jax.tree.flatten(new, is_leaf=is_none)
    changed = False
    for index, (leaf, like) in enumerate(zip(new_leaves, old_leaves, strict=True)):
        if leaf is like or leaf is None or like is None:
            continue
        if np.shape(leaf) != np.shape(like):
            check_like("the updates that come out", new, "those that went in", old)
        if isinstance(like, jax.Array) and leaf.dtype != like.dtype:
            new_leaves[index] = leaf.astype(like.dtype)
            changed = True
    return jax.tree.unflatten(new_structure, new_leaves) if changed else new


# Names that the field gives to extra arguments. One of them is never taken for another one misspelt.
_VOCABULARY = frozenset(
    ["value", "values", "grad", "grads", "value_fn", "grad_fn", "loss", "losses", "loss_fn", "key", "rng"]
)


def _one_edit_apart(a: str, b: str) -> bool:
    """Whether one letter inserted, deleted, replaced or swapped with its neighbour makes a into b."""
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) != len(b):
        short, long = sorted((a, b), key=len)
        return short[start:] == long[start + 1 :]
    if a[start + 1 :] == b[start + 1 :]:
        return True
    return a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]


def refuse_near_misses(extra: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in extra:
        if name in known or name in _VOCABULARY:
            continue
        for meant in known:
            if meant not in extra and _one_edit_apart(name, meant):
                raise TypeError(
                    f"{stage_name()}: update got an extra argument '{name}' that no stage takes; "
                    f"did you mean '{meant}'?"
                )

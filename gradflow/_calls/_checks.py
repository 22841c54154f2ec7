"""Checks of a call of a transformation: equal trees, leaves of the right kind, the right state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls import _hints as _hints
from gradflow._calls._context import context, stage_name
from gradflow._checked import is_beyond_64_bits
from gradflow._coding._leaves import is_entry
from gradflow._dtypes import in_dtype_of, is_complex, is_inexact, promote
from gradflow._errors import describe
from gradflow._shardings import with_sharding_of
from gradflow._types import is_absent
from gradflow.tree._paths import is_none, path_string, show
from gradflow.tree._structure import explain_trees


def _as_array(leaf: Any) -> Any:
    """A Python or NumPy number as a strongly typed jax array; other leaves unchanged."""
    if isinstance(leaf, jax.Array) or leaf is None:
        return leaf
    if isinstance(leaf, bool | int | float | complex) and not is_beyond_64_bits(leaf):
        return jnp.asarray(leaf, jnp.zeros((), type(leaf)).dtype)
    if isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind in "biufcV":
        return jnp.asarray(leaf) if leaf.dtype != jax.dtypes.float0 else leaf
    return leaf


def as_arrays(tree: Any) -> Any:
    """The tree with its leaves converted to jax arrays where possible."""
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, jax.Array):
            return jax.tree.map(_as_array, tree)
    return tree


def without_untrained(params: Any, updates: Any) -> Any:
    """The parameters with None for each leaf that has no update and is not a floating-point array.

    Models hold functions, integers and keys beside what is trained. Rules for whole trees skip them so.
    """
    structure: Any = jax.tree.structure(params)
    if structure == jax.tree.structure(updates):
        return params
    leaves, structure = jax.tree.flatten(params, is_leaf=is_none)
    given = jax.tree.leaves(updates, is_leaf=is_none)
    kept = [None if u is None and not is_trainable(p) else p for p, u in zip(leaves, given, strict=True)]
    return jax.tree.unflatten(structure, kept)


def is_trainable(leaf: Any) -> bool:
    """Whether a leaf is a floating-point or complex array."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(dtype, np.dtype) and is_inexact(dtype)


def check_leaves(kind: str, what: str, tree: Any) -> None:
    """Raises for the first leaf that a stage cannot do arithmetic on."""
    error = complex_leaf_error(kind, what, tree) or other_leaf_error(what, tree)
    if error is not None:
        raise error


def complex_leaf_error(kind: str, what: str, tree: Any) -> TypeError | None:
    """The error for the first complex leaf of a stage that takes real ones."""
    if kind != "real":
        return None
    wrong = [leaf for leaf in jax.tree.leaves(tree) if is_trainable(leaf) and is_complex(leaf.dtype)]
    return _leaf_error(what, "real floating-point arrays", wrong[0], tree) if wrong else None


def other_leaf_error(what: str, tree: Any) -> TypeError | None:
    """The error for the first leaf that is not a floating-point or complex array."""
    wrong = [leaf for leaf in jax.tree.leaves(tree) if not is_trainable(leaf)]
    return _leaf_error(what, "floating-point or complex arrays", wrong[0], tree) if wrong else None


def _leaf_error(what: str, wanted: str, leaf: Any, tree: Any) -> TypeError:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    path = next(show(path_string(path)) for path, other in flat if other is leaf)
    return TypeError(
        f"{stage_name()}: {what} must be {wanted}, or None where there is no update; got "
        f"{describe(leaf)} at {path}.{_hints.wrong_leaf(leaf)}"
    )


def check_like(
    what: str,
    tree: Any,
    other_what: str,
    other: Any,
    *,
    shapes: bool = True,
    hint: Callable[[], str] = str,
) -> None:
    """Raises ValueError unless two trees have one structure (None matches any leaf) and equal shapes."""
    structure: Any
    leaves, structure = jax.tree.flatten(tree)
    other_leaves, other_structure = jax.tree.flatten(other)
    if structure != other_structure:
        # A leaf may be left out by a mask in the one tree, and have no update, or be coded, in the other.
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_entry)
        other_leaves, other_structure = jax.tree.flatten(other, is_leaf=is_entry)
        if structure != other_structure:
            raise ValueError(
                f"{stage_name()}: {what} and {other_what} must have one tree structure; "
                + f"{explain_trees(what, tree, other_what, other)}."
                + (hint() or _hints.unlike_trees(what, tree, other_what, other))
            )
    for index, (leaf, like) in enumerate(zip(leaves, other_leaves, strict=True)):
        if shapes and not is_absent(leaf) and not is_absent(like) and np.shape(leaf) != np.shape(like):
            placed = jax.tree.unflatten(structure, range(len(leaves)))
            path = next(p for p, i in jax.tree_util.tree_leaves_with_path(placed) if i == index)
            raise ValueError(
                f"{stage_name()}: {what} and {other_what} must have equal shapes; got "
                f"{np.shape(leaf)} and {np.shape(like)} at {show(path_string(path))}."
                + _hints.unlike_shapes(np.shape(leaf), np.shape(like))
            )


def is_like(tree: Any, other: Any) -> bool:
    """Whether two trees have one structure and equal shapes, None counting as a leaf of any shape."""
    structure: Any
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
    others, other_structure = jax.tree.flatten(other, is_leaf=is_none)
    return structure == other_structure and all(
        x is None or y is None or np.shape(x) == np.shape(y) for x, y in zip(leaves, others, strict=True)
    )


def match_params(updates: Any, params: Any) -> Any:
    """The updates in the promoted dtype of gradient and parameter, sharded like the parameters."""
    grads, structure = jax.tree.flatten(updates, is_leaf=is_none)
    values = jax.tree.leaves(params, is_leaf=is_none)
    changed = False
    for index, (g, p) in enumerate(zip(grads, values, strict=True)):
        if not isinstance(g, jax.Array) or not isinstance(p, jax.Array):
            continue
        new = g
        if g.dtype != p.dtype and is_trainable(g) and is_trainable(p):
            new = g.astype(promote(g.dtype, p.dtype))
        new = with_sharding_of(new, p)
        changed |= new is not g
        grads[index] = new
    return jax.tree.unflatten(structure, grads) if changed else updates


def refuse_coded() -> None:
    """Raises the error for a coded leaf, unless the stage is called by a wrapper that codes its state."""
    if not context.decodes:
        raise WrongStateError(
            f"{stage_name()}: argument 'state' must hold arrays; got coded leaves, which quantize_state or "
            f"cast_state made.{_hints.CONVERT}"
        )


class WrongStateError(TypeError):
    """A state that is not the called stage's own."""


def refuse_state(expected: str, state: Any) -> None:
    """Raises the error for a state that is not the called stage's own."""
    raise WrongStateError(
        f"{stage_name()}: argument 'state' must be {expected}, as init returns it; got {describe(state)}."
        + _hints.wrong_state(state, expected)
    )


def without_aliases(state: Any, params: Any) -> Any:
    """The state with a copy of each concrete array that it holds twice, or that is a parameter.

    A compiled program returns buffers of their own. Without jit, a stage and the wrapper that reports it
    would share one, and it could not be donated twice.
    """
    leaves, structure = jax.tree.flatten(state)
    taken = {id(leaf) for leaf in jax.tree.leaves(params)}
    changed = False
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
            continue
        if id(leaf) in taken:
            leaves[index] = jnp.array(leaf, copy=True)
            changed = True
        taken.add(id(leaf))
    return jax.tree.unflatten(structure, leaves) if changed else state


def with_named_tuples(state: Any, template: Any, *, cast: bool = True) -> Any | None:
    """A state whose tuples came back as lists or plain tuples, as from JSON, in the template's structure.

    None unless containers, shapes and kinds of numbers agree. With `cast`, leaves take the template's
    dtypes; a template made from the updates alone may be narrower than the state.
    """
    plain, structure = _without_names(state), jax.tree.structure(template)
    found: Any = jax.tree.structure(plain)
    if found != jax.tree.structure(_without_names(template)):
        return None
    leaves, expected = jax.tree.leaves(plain), jax.tree.leaves(template)
    for leaf, like in zip(leaves, expected, strict=True):
        if np.shape(leaf) != np.shape(like) or not jnp.can_cast(leaf.dtype, like.dtype, "same_kind"):
            return None
    if cast:
        leaves = [leaf.astype(like.dtype) for leaf, like in zip(leaves, expected, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def _without_names(node: Any) -> Any:
    """A tree with a list in the place of each list, tuple and named tuple."""
    if isinstance(node, list | tuple):
        return [_without_names(part) for part in node]
    if type(node) is dict:
        return {name: _without_names(part) for name, part in node.items()}
    return _as_array(node)


def match_outputs(new: Any, old: Any) -> Any:
    """A stage's output, checked to have its input's shapes and cast to its input's dtypes.

    Finite numbers stay finite, so a rule may compute in float32 without a bound for float16.
    """
    new_structure: Any
    new_leaves, new_structure = jax.tree.flatten(new)
    old_leaves, old_structure = jax.tree.flatten(old)
    if new_structure != old_structure:
        check_like("the returned updates", new, "the given updates", old)
        old_leaves = jax.tree.leaves(old, is_leaf=is_none)
        new_leaves, new_structure = jax.tree.flatten(new, is_leaf=is_none)
    changed = False
    for index, (leaf, like) in enumerate(zip(new_leaves, old_leaves, strict=True)):
        if leaf is like or leaf is None or like is None:
            continue
        if np.shape(leaf) != np.shape(like):
            check_like("the returned updates", new, "the given updates", old)
        if not isinstance(like, jax.Array):
            continue
        matched = with_sharding_of(leaf if leaf.dtype == like.dtype else in_dtype_of(leaf, like), like)
        changed |= matched is not leaf
        new_leaves[index] = matched
    return jax.tree.unflatten(new_structure, new_leaves) if changed else new

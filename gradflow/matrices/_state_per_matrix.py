"""States of rules for one matrix: made, checked, and their keys."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._context import stage_name
from gradflow._checked import FUNCTION, SHAPED, Leaves, checked
from gradflow._errors import describe
from gradflow._rules._state import zero_scalar
from gradflow._types import is_absent
from gradflow.matrices._matrix import WHOLE, MatrixAxes
from gradflow.matrices._operands import at_leaves
from gradflow.matrices._spread import Cut, cut_of, factor_cut, is_cut_anywhere, laid_out
from gradflow.tree._paths import is_none, path_string, segment, show

MATRIX_AXES = Leaves("MatrixAxes", lambda leaf: isinstance(leaf, MatrixAxes))


@checked(make=FUNCTION, params=SHAPED, axes=MATRIX_AXES)
def init_per_matrix(make: Callable[[tuple[int, ...], Any], Any], axes: Any, params: Any) -> Any:
    """A tree for `per_matrix` of what `make(shape, parameter)` gives for one matrix of that shape.

    `make` returns a tree of arrays, which do not depend on the parameter's values, and of None. They are
    placed as `zero_scalar` places scalars: replicated on the parameters' mesh. Where matrices are shared out,
    each device has a piece of them.
    """

    def placed(x: Any, p: Any, cut: Cut | None, a: MatrixAxes, stack: tuple[int, ...] = ()) -> Any:
        value = zero_scalar(p, x.dtype) + x
        value = jnp.broadcast_to(value, (*stack, *x.shape)) if stack else value
        own = None if cut is None else factor_cut(cut, p.shape, a, value.shape)
        return value if own is None else laid_out(value, own)

    def one(keys: Any, p: Any, a: Any) -> Any:
        if is_absent(p):
            return p
        cut = cut_of(p, tuple(map(segment, keys)), a) if is_cut_anywhere(p) else None
        if a == WHOLE:
            return jax.tree.map(lambda x: placed(x, p, cut, a), make(p.shape, p))
        parts = []
        for count, *own_sides in a.shapes(p.shape):
            stack = () if count == 1 else (count,)
            made = make(tuple(own_sides), p)
            parts.append(jax.tree.map(lambda x, stack=stack: placed(x, p, cut, a, stack), made))
        return parts[0] if len(parts) == 1 else tuple(parts)

    try:
        return jax.tree_util.tree_map_with_path(one, params, axes, is_leaf=is_absent)
    except (ValueError, AttributeError):
        structures: list[Any] = [jax.tree.structure(t, is_leaf=is_none) for t in (params, axes)]
        if structures[0] == structures[1]:
            raise
        raise ValueError(
            "init_per_matrix: argument 'axes' must be a tree like 'params'; got "
            f"{describe(axes)} for {describe(params)}"
        ) from None


def check_per_matrix(
    make: Callable[[tuple[int, ...], Any], Any], axes: Any, updates: Any, **states: Any
) -> None:
    """Raises ValueError naming the first leaf of the updates for which a state is not what `make` made."""
    flat, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    own_axes = at_leaves(structure, axes)
    # Once for leaves of one kind: 100 matrices of two shapes take 4 ms at each trace, one by one 91.
    wanted: dict[Any, list[tuple[int, ...]]] = {}
    for name, state in states.items():
        for (path, g), a, own in zip(flat, own_axes, at_leaves(structure, state), strict=True):
            if g is None:
                continue
            kind = (a, g.shape, g.dtype)
            if kind not in wanted:
                wanted[kind] = _shapes(jax.eval_shape(functools.partial(_init_one, make, a), g))
            if wanted[kind] != _shapes(own):
                raise ValueError(
                    f"{stage_name()}: the update at {show(path_string(path))} of shape {g.shape} needs a "
                    f"state '{name}' of shapes {wanted[kind]}; it has {_shapes(own)}"
                )


def _init_one(make: Callable[[tuple[int, ...], Any], Any], axes: MatrixAxes, leaf: Any) -> Any:
    return init_per_matrix(make, axes, leaf)


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def keys_per_matrix(keys: Any, axes: Any, updates: Any) -> Any:
    """A tree for `per_matrix` of one PRNG key a matrix, from one key a leaf of the updates."""

    def one(g: Any, a: Any, key: Any) -> Any:
        if is_absent(g) or a == WHOLE:
            return key
        parts = a.shapes(g.shape)
        own = [key] if len(parts) == 1 else list(jax.random.split(key, len(parts)))
        stacks = [
            k if count == 1 else jax.random.split(k, count) for k, (count, *_) in zip(own, parts, strict=True)
        ]
        return stacks[0] if len(stacks) == 1 else tuple(stacks)

    return jax.tree.map(one, updates, axes, keys, is_leaf=is_absent)

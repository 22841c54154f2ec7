"""Conversion of states between plain and coded forms."""

from typing import Any

import jax
import jax.numpy as jnp

from gradflow._checked import ARRAYS, checked
from gradflow._coding._leaves import is_coded
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._tracebacks import one_frame
from gradflow._types import OptState, Params
from gradflow.tree._structure import explain_trees
from gradflow.wrappers._coded_state import CodedState


@one_frame
@checked(params=ARRAYS)
def convert_state(
    old_tx: GradientTransformation, new_tx: GradientTransformation, params: Params, state: OptState
) -> OptState:
    """The state of `old_tx` as a state of `new_tx`, which differs in `quantize_state` and `cast_state` alone.

        coded = quantize_state(adamw(1e-3))
        state = convert_state(adamw(1e-3), coded, params, state)     # and back with the two exchanged

    Numbers are rounded to the nearest of the new form; later steps round as `new_tx` says.

    Args:
      old_tx: the transformation that made `state`.
      new_tx: the one that continues.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      state: a state that `init` or `update` of `old_tx` returned.

    Raises ValueError where the state is not one of `old_tx`, or the two differ in more than the form.

    >>> import gradflow as gf
    >>> old, new = gf.adamw(1e-3), gf.quantize_state(gf.adamw(1e-3))
    >>> state = gf.convert_state(old, new, 1.0, old.init(1.0))
    """
    old_tx = as_transformation(old_tx, "convert_state", "argument 'old_tx'")
    new_tx = as_transformation(new_tx, "convert_state", "argument 'new_tx'")
    ARRAYS.check("convert_state", "state", state)
    given, expected = jax.eval_shape(lambda: state), jax.eval_shape(old_tx.init, params)
    if _types(given) != _types(expected):
        raise ValueError(
            "convert_state: argument 'state' must be a state of 'old_tx' for these parameters; "
            + explain_trees("state", given, "the state of old_tx", expected)
        )
    before = jax.eval_shape(_plain, given)
    after = jax.eval_shape(lambda params: _plain(new_tx.init(params)), params)
    if _shapes(before) != _shapes(after):
        raise ValueError(
            "convert_state: arguments 'old_tx' and 'new_tx' must differ in quantize_state and cast_state "
            "alone; " + explain_trees("the state of old_tx", before, "the state of new_tx", after)
        )
    arrays = [p for p in jax.tree.leaves(params) if not isinstance(p, jax.ShapeDtypeStruct)]
    shapes = jax.eval_shape(lambda: params) if arrays else params

    @jax.jit
    def convert(state: OptState, params: Params | None) -> OptState:
        # Only shapes and seeds of the first state are used, and XLA leaves out the rest.
        first = new_tx.init(jax.tree.map(jnp.zeros_like, shapes) if params is None else params)
        leaves, structure = jax.tree.flatten(first, is_leaf=is_coded)
        values = jax.tree.leaves(_plain(state))
        return jax.tree.unflatten(structure, map(_in_form_of, leaves, values))

    return convert(state, params if arrays else None)


def _plain(tree: Any) -> Any:
    """A state as the inner transformations would have it without coding."""

    def is_form(node: Any) -> bool:
        return isinstance(node, CodedState) or is_coded(node)

    def read(node: Any) -> Any:
        if isinstance(node, CodedState):
            return _plain(node.inner_state)
        return node.decode() if is_coded(node) else node

    return jax.tree.map(read, tree, is_leaf=is_form)


def _in_form_of(like: Any, x: jax.Array) -> Any:
    if is_coded(like):
        return like._replace(seed=()).encode(x)._replace(seed=like.seed)
    return x if x.dtype == like.dtype else x.astype(like.dtype)


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]


def _types(tree: Any) -> Any:
    return _shapes(tree), [leaf.dtype for leaf in jax.tree.leaves(tree)]

"""A loss and its gradient, taken from the state of a line search where possible."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._checked import FUNCTION, checked
from gradflow._types import OptState, Params, Updates


@checked(value_fn=FUNCTION)
def value_and_grad_from_state(
    value_fn: Callable[..., Any],
) -> Callable[..., tuple[jax.Array, Updates]]:
    """`jax.value_and_grad` that reuses the value and gradient stored by a line search.

    Args:
      value_fn: `f(params, *args, **kwargs)`, a real scalar.

    Returns `g(params, *args, state=state, **kwargs) -> value, grad`. The state of a line search, anywhere
    inside `state`, has both at the end of the search. They are used if the value is finite, which it is not
    before the first step, and computed otherwise. They are valid for the same arguments only: with another
    batch use `jax.value_and_grad`. Stored ones are constants under differentiation.

    Other states with fields `value` and `grad` work as well. `g` raises ValueError for a state without
    value and gradient, KeyError for one with several.

    >>> import gradflow as gf
    >>> def loss(x):
    ...     return (x - 1.0) ** 2
    >>> tx = gf.lbfgs()
    >>> state = tx.init(0.0)
    >>> value, grad = gf.value_and_grad_from_state(loss)(0.0, state=state)
    >>> float(value), float(grad)
    (1.0, -2.0)
    """

    def value_and_grad(params: Params, *args: Any, state: OptState, **kwargs: Any) -> Any:
        value, grad = stored_value_and_grad(state)
        if value is None:
            value, grad = tree.get(state, "value"), tree.get(state, "grad")
        if value is None or grad is None:
            raise ValueError(
                "value_and_grad_from_state: argument 'state' must store a value and gradient; got none. A "
                "line search stores them, scale_by_backtracking_linesearch with store_grad=True."
            )
        return stored_or_computed(value_fn, value, grad, params, args, kwargs)

    return value_and_grad


def stored_value_and_grad(state: OptState) -> tuple[Any, Any]:
    """The value and gradient that a line search stored; None for a missing one."""
    return tree.get(state, "value", filtering=is_linesearch_field), tree.get(
        state, "grad", filtering=is_linesearch_field
    )


def is_linesearch_field(path: Any, found: Any) -> bool:
    """Whether a path of the state leads to a field of a line search."""
    return bool(path) and getattr(path[-1], "tuple_name", "").endswith("LinesearchState")


def stored_or_computed(
    value_fn: Callable[..., Any], value: Any, grad: Any, params: Params, args: Any, kwargs: Any
) -> tuple[jax.Array, Updates]:
    """The stored value and gradient where the value is finite, else those of `value_fn`."""
    compute = jax.value_and_grad(value_fn)
    value_like, grad_like = jax.eval_shape(compute, params, *args, **kwargs)

    def stored() -> tuple[jax.Array, Updates]:
        return value.astype(value_like.dtype), jax.tree.map(lambda g, x: g.astype(x.dtype), grad, grad_like)

    def computed() -> tuple[jax.Array, Updates]:
        found, slopes = compute(params, *args, **kwargs)
        return jnp.asarray(found, value_like.dtype), slopes

    result: tuple[jax.Array, Updates] = jax.lax.cond(jnp.isfinite(value), stored, computed)
    return result


def store_value_and_grad(state: OptState, value: Any, grad: Any) -> OptState:
    """The state with a value and gradient stored as by a line search that ended there."""
    old_value, old_grad = stored_value_and_grad(state)
    value = jnp.asarray(value).astype(old_value.dtype)
    grad = jax.tree.map(lambda new, old: new.astype(old.dtype), grad, old_grad)
    return tree.set(state, is_linesearch_field, value=value, grad=grad)

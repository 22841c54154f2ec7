"""Moving averages of moments, with digits kept for decays near 1."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._dtypes import compute_dtype, is_complex, is_inexact, promote, real_dtype
from gradflow.tree._leaves import arrays_of, call, check_scalar, refuse
from gradflow.tree._structure import match


def update_moment(updates: Any, moments: Any, decay: Any, order: float) -> Any:
    """`decay * moments + (1 - decay) * updates**order`, in the moments' dtypes.

    Args:
      updates: where a leaf is None its moment stays as it is.
      moments: where a leaf is None it stays None.
      decay: a scalar in [0, 1].
      order: a Python number.
    """
    check_scalar(decay, "decay")
    return call(_update_moment, updates, moments, decay, order=_order(order), absolute=False)


def update_moment_per_elem_norm(updates: Any, moments: Any, decay: Any, order: float) -> Any:
    """`decay * moments + (1 - decay) * |updates|**order`; for the rest see `update_moment`."""
    check_scalar(decay, "decay")
    return call(_update_moment, updates, moments, decay, order=_order(order), absolute=True)


def update_infinity_moment(updates: Any, moments: Any, decay: Any, eps: Any) -> Any:
    """`max(|updates| + eps, decay * moments)`; for the rest see `update_moment`."""
    check_scalar(decay, "decay")
    check_scalar(eps, "eps")
    return call(_update_infinity_moment, updates, moments, decay, eps)


def bias_correction(moment: Any, decay: Any, count: Any) -> Any:
    """`moment / (1 - decay**count)`, the mean that a moving average from zero stands for.

    The denominator keeps its digits for every decay below 1. At `count` 0 there is nothing to
    correct and the moment is returned as it is.
    """
    check_scalar(decay, "decay")
    check_scalar(count, "count")
    return call(_bias_correction, moment, decay, count)


@functools.partial(jax.jit, static_argnames=("order", "absolute"))
def _update_moment(updates: Any, moments: Any, decay: jax.Array, *, order: float, absolute: bool) -> Any:
    def rule(g: jax.Array, m: jax.Array, b: jax.Array) -> jax.Array:
        # 1 - b is taken after b is rounded to the working dtype, where it is exact.
        return (1 - b) * _power(g, order, absolute) + b * m

    return _average(rule, updates, moments, (decay,), absolute)


@jax.jit
def _update_infinity_moment(updates: Any, moments: Any, decay: jax.Array, eps: jax.Array) -> Any:
    def rule(g: jax.Array, m: jax.Array, b: jax.Array, e: jax.Array) -> jax.Array:
        return jnp.maximum(jnp.abs(g) + e, b * m)

    return _average(rule, updates, moments, (decay, eps), True)


def _average(
    rule: Callable[..., jax.Array],
    updates: Any,
    moments: Any,
    scalars: tuple[jax.Array, ...],
    absolute: bool,
) -> Any:
    rows, treedef = match(updates, moments)
    arrays_of(updates), arrays_of(moments)
    result: list[Any] = []
    for i, (g, m) in enumerate(rows):
        if g is None or m is None:
            result.append(m)
            continue
        if not is_inexact(m.dtype):
            refuse(moments, i, "an inexact moment", m.dtype)
        if is_complex(g.dtype) and not is_complex(m.dtype) and not absolute:
            refuse(moments, i, f"a complex moment for a {g.dtype} update", m.dtype)
        wide = compute_dtype(promote(g.dtype, m.dtype) if is_inexact(g.dtype) else m.dtype)
        real = real_dtype(wide)
        # A real leaf enters as real: complex arithmetic would only add zeros.
        g = g.astype(wide if is_complex(g.dtype) else real)
        m_wide = m.astype(wide if is_complex(m.dtype) else real)
        new = rule(g, m_wide, *(s.astype(real) for s in scalars))
        result.append(new.astype(m.dtype))
    return treedef.unflatten(result)


def _power(g: jax.Array, order: float, absolute: bool) -> jax.Array:
    if absolute and order == 2:
        # Without the root that |g| has, and whose derivative is infinite at zero.
        return (g * g.conj()).real
    base = jnp.abs(g) if absolute else g
    return jax.lax.integer_pow(base, order) if isinstance(order, int) else base**order


def _order(order: float) -> float:
    if isinstance(order, bool) or not isinstance(order, int | float | np.integer | np.floating):
        raise TypeError(f"order: expected a number, got {type(order).__name__}")
    return int(order) if float(order).is_integer() else float(order)


@jax.jit
def _bias_correction(moment: Any, decay: jax.Array, count: jax.Array) -> Any:
    leaves = arrays_of(moment)
    for i, x in enumerate(leaves):
        if not is_inexact(x.dtype):
            refuse(moment, i, "an inexact moment", x.dtype)
    wide = [compute_dtype(x.dtype) for x in leaves]
    correction = {d: _one_minus_power(decay, count, d) for d in map(real_dtype, wide)}
    return jax.tree.unflatten(
        jax.tree.structure(moment),
        [
            (x.astype(d) / correction[real_dtype(d)].astype(d)).astype(x.dtype)
            for x, d in zip(leaves, wide, strict=True)
        ],
    )


def _one_minus_power(decay: jax.Array, count: jax.Array, dtype: Any) -> jax.Array:
    """`1 - decay**count`, and 1 for a count of 0."""
    b, t = decay.astype(dtype), count.astype(dtype)
    begun = count != 0
    t = jnp.where(begun, t, 1)
    # Through the logarithm where the difference would cancel; directly where b may be 0. The
    # inner selections keep the branch that is not taken, and its derivative, finite.
    near_one = b > 0.5
    c = 1 - jnp.where(near_one, b, 0.75)
    via_log = -jnp.expm1(t * jnp.log1p(-c))
    direct = 1 - jnp.where(near_one, 0.25, b) ** t
    return jnp.where(begun, jnp.where(near_one, via_log, direct), 1)

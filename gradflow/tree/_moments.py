"""Moving averages of moments, precise for decays near 1."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._checked import NUMBERS, Number, checked
from gradflow._dtypes import compute_dtype, is_complex, is_inexact, promote, real_dtype
from gradflow.tree._decay_power import one_minus_power
from gradflow.tree._leaves import arrays_of, raise_leaf_error
from gradflow.tree._structure import match


@checked(updates=NUMBERS, moments=NUMBERS, decay=Number(0, 1), order=Number(static=True))
def update_moment(updates: Any, moments: Any, decay: Any, order: float) -> Any:
    """`decay * moments + (1 - decay) * updates**order`, in the moments' dtypes.

    Args:
      updates: where a leaf is None, the moment is kept.
      moments: a leaf that is None stays None.
      decay: a scalar in [0, 1].
      order: a number, not traced.
    """
    return _update_moment(updates, moments, decay, order=_plain(order), absolute=False)


@checked(updates=NUMBERS, moments=NUMBERS, decay=Number(0, 1), order=Number(static=True))
def update_moment_per_elem_norm(updates: Any, moments: Any, decay: Any, order: float) -> Any:
    """`decay * moments + (1 - decay) * |updates|**order`; for the rest see `update_moment`."""
    return _update_moment(updates, moments, decay, order=_plain(order), absolute=True)


@checked(updates=NUMBERS, moments=NUMBERS, decay=Number(0, 1), eps=Number(0))
def update_infinity_moment(updates: Any, moments: Any, decay: Any, eps: Any) -> Any:
    """`max(|updates| + eps, decay * moments)`; for the rest see `update_moment`."""
    return _update_infinity_moment(updates, moments, decay, eps)


@checked(moment=NUMBERS, decay=Number(0, 1), count=Number(0))
def bias_correction(moment: Any, decay: Any, count: Any) -> Any:
    """`moment / (1 - decay**count)`: corrects a moving average that started at zero.

    The denominator is precise for every decay below 1. For a `count` of 0 the moment is returned unchanged.
    """
    return _bias_correction(moment, decay, count)


@functools.partial(jax.jit, static_argnames=("order", "absolute"))
def _update_moment(updates: Any, moments: Any, decay: jax.Array, *, order: float, absolute: bool) -> Any:
    def rule(g: jax.Array, m: jax.Array, b: jax.Array) -> jax.Array:
        # b is rounded to the working dtype before 1 - b, which is then exact.
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
            raise_leaf_error(moments, i, "an inexact moment", m.dtype)
        if is_complex(g.dtype) and not is_complex(m.dtype) and not absolute:
            raise_leaf_error(moments, i, f"a complex moment for a {g.dtype} update", m.dtype)
        wide = compute_dtype(promote(g.dtype, m.dtype) if is_inexact(g.dtype) else m.dtype)
        real = real_dtype(wide)
        # A real leaf stays real: complex arithmetic would only add zeros.
        g = g.astype(wide if is_complex(g.dtype) else real)
        m_wide = m.astype(wide if is_complex(m.dtype) else real)
        new = rule(g, m_wide, *(s.astype(real) for s in scalars))
        result.append(new.astype(m.dtype))
    return treedef.unflatten(result)


def _power(g: jax.Array, order: float, absolute: bool) -> jax.Array:
    if absolute and order == 2:
        # |g| would take a square root, whose derivative is infinite at zero.
        return (g * g.conj()).real
    base = jnp.abs(g) if absolute else g
    return jax.lax.integer_pow(base, order) if isinstance(order, int) else base**order


def _plain(order: float) -> float:
    """The order as a Python number: an integer if it is whole, for powers by multiplication."""
    return int(order) if float(order).is_integer() else float(order)


@jax.jit
def _bias_correction(moment: Any, decay: jax.Array, count: jax.Array) -> Any:
    arrays_of(moment)
    rows, treedef = match(moment)
    for i, (x,) in enumerate(rows):
        if x is not None and not is_inexact(x.dtype):
            raise_leaf_error(moment, i, "an inexact moment", x.dtype)
    wide = [None if x is None else compute_dtype(x.dtype) for (x,) in rows]
    correction = {d: _correction(decay, count, d) for d in map(real_dtype, filter(None, wide))}
    return treedef.unflatten(
        [
            x if d is None else (x.astype(d) / correction[real_dtype(d)].astype(d)).astype(x.dtype)
            for (x,), d in zip(rows, wide, strict=True)
        ]
    )


def _correction(decay: jax.Array, count: jax.Array, dtype: Any) -> jax.Array:
    """`1 - decay**count`, and 1 for a count of 0."""
    begun = count != 0
    power = one_minus_power(1 - decay.astype(dtype), jnp.where(begun, count, 1))
    return jnp.where(begun, power, 1)

"""Zeros in place of NaNs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._platform import by_platform
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import AxisName, axes_of, check_axis_name, sum_axes
from gradflow._rules._state import zero_scalar
from gradflow._types import OptState, Pair, Params, Updates


class ZeroNansState(NamedTuple):
    """Whether the last gradient had a NaN, per leaf."""

    found_nan: Any


def zero_nans_rule(g: jax.Array, s: Any) -> jax.Array:
    """u = 0 where g is NaN, else g."""
    return jnp.where(jnp.isnan(g), jnp.zeros((), g.dtype), g)


@jax.jit
def _count(g: jax.Array) -> jax.Array:
    return jnp.sum(jnp.isnan(g), dtype=np.int32)


@jax.jit
def _has_nan(g: jax.Array) -> jax.Array:
    """A GPU needs one more kernel for `count > 0`; a CPU adds numbers faster than it joins booleans."""
    return by_platform(g, cpu=lambda g: _count(g) > 0, accelerator=lambda g: jnp.any(jnp.isnan(g)))


@transformation(reports=("count",), elementwise=True, sums=True)
def zero_nans(*, axis_name: AxisName = None) -> Pair:
    """Replaces NaNs by zeros, and records which leaves had some.

    Infinities pass through. To skip the whole step instead, see `apply_if_finite`.

    Args:
      axis_name: for a call inside `shard_map`: the mesh axes along which leaves are sharded, or
        `()` if every device holds the same updates.

    Reports `count`, the number of NaNs. Raises ValueError inside `shard_map` where updates differ
    along an axis and no `axis_name` is given, because the state would differ as well.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.zero_nans(), gf.adam(1e-3)))
    chain(zero_nans(), adam(0.001))
    """
    check_axis_name("zero_nans", axis_name)

    def init(params: Params) -> OptState:
        return ZeroNansState(jax.tree.map(lambda p: zero_scalar(p, np.bool_), params))

    def update(
        updates: Updates, state: ZeroNansState, params: Params | None = None
    ) -> tuple[Updates, ZeroNansState]:
        axes = sum_axes(axis_name, updates)

        def count(g: jax.Array) -> jax.Array:
            names = axes_of(g, axes)
            return jax.lax.psum(_count(g), names) if names else _count(g)

        def has_nan(g: jax.Array) -> jax.Array:
            return count(g) > 0 if axes_of(g, axes) else _has_nan(g)

        (u,) = leafwise(zero_nans_rule, (updates,))
        report("count", lambda: tree.sum(jax.tree.map(count, updates)))
        return u, ZeroNansState(_found(jax.tree.map(has_nan, updates), state.found_nan))

    return init, update


def _found(flags: Any, before: Any) -> Any:
    """Whether there were NaNs; the last result for leaves without a gradient."""
    check_like("state", before, "updates", flags)
    return jax.tree.map(
        lambda flag, old: old if flag is None or old is None else flag,
        flags, before, is_leaf=lambda x: x is None,
    )  # fmt: skip

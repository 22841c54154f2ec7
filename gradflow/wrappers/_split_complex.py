"""Passes complex numbers to a transformation as pairs of real ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._types import OptState, Pair, Params, Updates


class SplitRealAndImaginaryArrays(NamedTuple):
    """The two parts of a complex array."""

    real: jax.Array
    imaginary: jax.Array


class SplitRealAndImaginaryState(NamedTuple):
    """The inner state, which has two leaves for every complex parameter."""

    inner_state: OptState


@transformation
def split_real_and_imaginary(inner: GradientTransformation) -> Pair:
    """Passes every complex leaf to `inner` as two real ones, so that each part has its own moments.

    `inner` then needs no support for complex numbers. Rules with absolute values change: Adam has one second
    moment `|g|^2` for a complex number, and with this wrapper one for each part.

    >>> import gradflow as gf
    >>> print(gf.split_real_and_imaginary(gf.adam(0.001)))
    split_real_and_imaginary(adam(0.001))
    """

    def init(params: Params) -> OptState:
        return SplitRealAndImaginaryState(inner.init(split(params)))

    def update(
        updates: Updates, state: SplitRealAndImaginaryState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, SplitRealAndImaginaryState]:
        parts = None if params is None else split(params)
        updates, inner_state = inner.update(split(updates), state.inner_state, parts, **extra)
        return join(updates), SplitRealAndImaginaryState(inner_state)

    return init, update


def split(tree: Any) -> Any:
    """Replaces each complex array of a tree by a pair of real ones."""

    def parts(x: Any) -> Any:
        # Random keys pass through: the inner transformation raises the error for them.
        is_complex = jnp.issubdtype(x.dtype, jnp.complexfloating)
        return SplitRealAndImaginaryArrays(x.real, x.imag) if is_complex else x

    return jax.tree.map(parts, tree)


def join(tree: Any) -> Any:
    """The inverse of `split`."""

    def whole(x: Any) -> Any:
        return jax.lax.complex(x.real, x.imaginary) if isinstance(x, SplitRealAndImaginaryArrays) else x

    return jax.tree.map(whole, tree, is_leaf=lambda x: isinstance(x, SplitRealAndImaginaryArrays))

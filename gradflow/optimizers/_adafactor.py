"""Adafactor: second moments of matrices, factored into rows and columns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Decay, Finite, Limit, NonNegative, PositiveLength, Rate
from gradflow._rules._leafwise import Scalars, as_scalar, leafwise, specialize
from gradflow._rules._math import bounded, bounded_square, safe_sqrt
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Square
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import (
    add_decayed_weights,
    clip_by_block_rms,
    ema,
    scale,
    scale_by_learning_rate,
    scale_by_param_block_rms,
)


class FactoredState(NamedTuple):
    """Steps taken, and for each leaf the averages of squares: per row and column, or per element.

    A field that a leaf does not use is a zero of shape (1,).
    """

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    v_row: Square
    v_col: Square
    v: Square


class _Axes(NamedTuple):
    """Which axes of a leaf are factored: the longest and the second longest."""

    longest: int
    second: int


def factored_axes(shape: tuple[int, ...], factored: bool, min_size: int) -> _Axes | None:
    """The two longest axes, later ones first, or None where the second is shorter than `min_size`."""
    if not factored or len(shape) < 2:
        return None
    *_, second, longest = np.argsort(shape, stable=True).tolist()
    return _Axes(longest, second) if shape[second] >= min_size else None


def power_decay_scalars(count: jax.Array, decay_rate: jax.Array, offset: jax.Array, **_: Any) -> Scalars:
    """`b = 1 - t^-decay_rate`, derived from its complement, which is exact; 0 before t = 1."""
    t = jnp.maximum(count.astype(offset.dtype) - offset + 1, 1)
    c = jnp.exp(-decay_rate * jnp.log(t))
    return {"b": 1 - c, "c": c}


def given_decay_scalars(b: jax.Array, **_: Any) -> Scalars:
    """The complement of a decay that a user's function returned."""
    return {"c": 1 - b}


def factored_rms_rule(
    g: jax.Array, v_row: jax.Array, v_col: jax.Array, v: jax.Array, s: Any, *, factored: bool, min_size: int
) -> tuple[jax.Array, ...]:
    """Shazeer & Stern 2018, Algorithm 4; a leaf of few elements has its own averages, Algorithm 5."""
    square = bounded_square(g) + s.epsilon
    axes = factored_axes(g.shape, factored, min_size)
    # The copies cost nothing when compiled with donation; without them two states would share a buffer.
    if axes is None:
        v = s.b * v + s.c * square
        return bounded(g) / safe_sqrt(v), jnp.copy(v_row), jnp.copy(v_col), v
    v_row = s.b * v_row + s.c * _mean(square, axes.longest)
    v_col = s.b * v_col + s.c * _mean(square, axes.second)
    rest = axes.second - (axes.second > axes.longest)
    mean = jnp.expand_dims(_mean(v_row, rest), rest)
    # A quotient of the two would underflow where one row's squares are far below the mean.
    by_row = jnp.expand_dims(1 / safe_sqrt(v_row), axes.longest)
    by_col = jnp.expand_dims(1 / safe_sqrt(v_col), axes.second)
    u = bounded(g) * by_row * (jnp.expand_dims(safe_sqrt(mean), axes.longest) * by_col)
    return u, v_row, v_col, jnp.copy(v)


def _mean(x: jax.Array, axis: int) -> jax.Array:
    """The mean along an axis, finite where all of `x` is."""
    return jnp.sum(x * (1 / x.shape[axis]), axis=axis)


@transformation
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: NonNegative = 0.8,
    step_offset: Finite = 0,
    min_dim_size_to_factor: PositiveLength = 128,
    epsilon: NonNegative = 1e-30,
    decay_rate_fn: Callable[[jax.Array, Any], Any] | None = None,
) -> Pair:
    """Divides the gradient by the root of its averaged square, stored per row and column.

        b = 1 - t^-decay_rate,  t = 1, 2, ...
        v_row = b * v_row + (1 - b) * mean over columns of (|g|^2 + epsilon)
        v_col = b * v_col + (1 - b) * mean over rows of (|g|^2 + epsilon)
        u = g / sqrt(v_row * v_col / mean(v_row))

    Args:
      factored: False keeps an average for every element, `u = g / sqrt(v)`.
      decay_rate: >= 0; a larger one averages over more steps.
      step_offset: the step count at which t is 1, for fine-tuning; until then `b = 0`.
      min_dim_size_to_factor: the two longest axes are factored where both have as many elements, >= 1;
        other leaves have an average for every element.
      epsilon: added to the squares, >= 0.
      decay_rate_fn: `(count - step_offset, decay_rate) -> b` in place of the power, in [0, 1).

    Averages are held in float32 at least. Raises ValueError inside `shard_map` for a sharded matrix, whose
    rows are not whole. Source: Shazeer & Stern 2018, arXiv:1804.04235.
    """
    rule = specialize(factored_rms_rule, factored=factored, min_size=min_dim_size_to_factor)

    def axes_of(x: Any) -> _Axes | None:
        return factored_axes(x.shape, factored, min_dim_size_to_factor)

    def parts(zeros: Any, unused: Any) -> tuple[Any, Any, Any]:
        """A leaf's state; sums of zeros have the sharding that sums of its gradients have."""
        axes = axes_of(zeros)
        if axes is None:
            return unused(), unused(), zeros
        # A sum of a constant XLA would compute beforehand, and leave whole on each device.
        zeros = jax.lax.optimization_barrier(zeros)
        return jnp.sum(zeros, axis=axes.longest), jnp.sum(zeros, axis=axes.second), unused()

    def init(params: Params) -> OptState:
        def leaf(p: Any) -> tuple[Any, Any, Any]:
            dtype = at_least_float32(real_dtype(p.dtype))
            return parts(tree.zeros_like(p, dtype), lambda: zero_scalar(p, dtype).reshape(1))

        return FactoredState(zero_scalar(params), *_columns(leaf, params))

    def update(
        updates: Updates, state: FactoredState, params: Params | None = None
    ) -> tuple[Updates, FactoredState]:
        def leaf(g: Any) -> Any:
            return jax.eval_shape(lambda: parts(jnp.zeros(g.shape), lambda: jnp.zeros(1)))

        columns = _columns(leaf, updates)
        for have, want in zip((state.v, state.v_row, state.v_col), (columns[2], *columns[:2]), strict=True):
            check_like("what the updates need", want, "state", have)
        # Also for small leaves: the size of a shard does not determine the size of the whole leaf.
        refuse_varying("a mean", [g for g in jax.tree.leaves(updates) if factored and g.ndim > 1])
        trees = (updates, *state[1:])
        numbers: dict[str, Any] = {"epsilon": epsilon}
        if decay_rate_fn is None:
            numbers.update(count=state.count, decay_rate=decay_rate, offset=step_offset)
            new = leafwise(rule, trees, power_decay_scalars, shapes=False, **numbers)
        else:
            dtype = jnp.zeros((), float).dtype
            step = state.count.astype(dtype) - as_scalar(step_offset, dtype)
            b = decay_rate_fn(step, as_scalar(decay_rate, dtype))
            new = leafwise(rule, trees, given_decay_scalars, shapes=False, b=b, **numbers)
        return new[0], FactoredState(increment(state.count), *new[1:])

    return init, update


def _columns(f: Callable[[Any], tuple[Any, ...]], updates: Any) -> tuple[Any, ...]:
    """The three trees of the results of `f` on each leaf."""
    leaves, structure = jax.tree.flatten(updates)
    made = [f(leaf) for leaf in leaves]
    return tuple(jax.tree.unflatten(structure, [m[k] for m in made]) for k in range(3))


@transformation
def adafactor(
    learning_rate: Rate | None = None,
    min_dim_size_to_factor: PositiveLength = 128,
    decay_rate: NonNegative = 0.8,
    decay_offset: Finite = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Limit | None = 1.0,
    momentum: Decay | None = None,
    dtype_momentum: Any = "float32",
    weight_decay_rate: NonNegative | None = None,
    eps: NonNegative = 1e-30,
    factored: bool = True,
    weight_decay_mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """Adafactor: Adam with factored second moments and steps relative to the parameters.

        u = clip_by_block_rms(scale_by_factored_rms(g))
        u = -(ema(learning_rate * max(rms(p), 0.001) * u) + weight_decay_rate * p)

    Args:
      learning_rate: a number >= 0 or a schedule, relative to the size of the parameters; None is 1.
      multiply_by_parameter_scale: False makes the learning rate absolute.
      clipping_threshold: largest root mean square of a leaf's `u`, >= 0; None does not clip.
      momentum: decay of the average of steps, in [0, 1); None has neither average nor memory for it.
      dtype_momentum: dtype of that average.
      weight_decay_rate: >= 0, not multiplied by the learning rate; None has no decay.
      weight_decay_mask: tree of booleans, or a function from the parameters to one: where to decay.

    The others (`decay_offset` is `step_offset`) and the source as in `scale_by_factored_rms`.
    """
    stages = [
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps)
    ]  # fmt: skip
    if clipping_threshold is not None:
        stages.append(clip_by_block_rms(clipping_threshold))
    stages.append(scale_by_learning_rate(1.0 if learning_rate is None else learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        stages.append(scale_by_param_block_rms())
    if momentum is not None:
        stages.append(ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        stages.append(add_decayed_weights(weight_decay_rate, weight_decay_mask))
    return chain(*stages, scale(-1.0))

"""DoG: SGD with the distance from the start over the root of the summed squared norms as its step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._calls._reports import report
from gradflow._core._compose import chain, identity
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import NonNegative, Rate
from gradflow._platform import by_platform
from gradflow._rules._leafwise import as_scalar, leafwise
from gradflow._rules._math import bounded_norm, safe_sqrt, saturated
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Weights
from gradflow._rules._scaled_norm import scaled_norm
from gradflow._rules._state import zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._distance_estimate import POSITIVE, scalar_dtype
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.tree._norm import largest_size

INIT_STEPS = ("distance", "learning_rate", "heuristic")


class DoGState(NamedTuple):
    """Whether all gradients were zero, first parameters, greatest distance, sum of squared norms."""

    is_init_step: jax.Array
    init_params: Weights
    max_dist: jax.Array
    sum_sq_norm_grads: jax.Array


def scale_and_keep_start_rule(g: jax.Array, p0: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """u = step * g."""
    # The copy costs nothing when compiled with donation; without it two states would share a buffer.
    return s.step * g, jnp.copy(p0)


def scaled_difference_rule(p0: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """The distance of a parameter from its start, times a factor that XLA treats as per-leaf.

    A factor shared by leaves of one shape would be stored in that shape by XLA on CPU.
    """
    factor, p0, p = jax.lax.optimization_barrier((s.factor, p0, p))
    return factor * (p0 - p)


def greatest_distance(max_dist: jax.Array, start: Params, params: Params) -> jax.Array:
    """`max(max_dist, |start - params|)`; squares neither overflow nor underflow."""

    distance = by_platform(max_dist, start, params, cpu=_distance_in_units, accelerator=_distance)
    return jnp.maximum(max_dist, distance)


def _distance(max_dist: jax.Array, start: Params, params: Params) -> jax.Array:
    """From one reading, without a branch."""
    return tree.norm(tree.sub(start, params)).astype(max_dist.dtype)


def _distance_in_units(max_dist: jax.Array, start: Params, params: Params) -> jax.Array:
    """In units of the last distance, so that no branch reads the differences again."""

    def largest(start: Params, params: Params) -> jax.Array:
        size = largest_size(tree.sub(start, params)).astype(max_dist.dtype)
        return jnp.where(size > 0, size, 1)

    known = max_dist > jnp.finfo(max_dist.dtype).tiny
    unit = jax.lax.cond(known, lambda *_: max_dist, largest, start, params)
    unit = jax.lax.stop_gradient(unit)
    (difference,) = leafwise(scaled_difference_rule, (start, params), factor=1 / unit)
    return unit * safe_sqrt(tree.norm(difference, squared=True).astype(max_dist.dtype))


def check_init_step(owner: str, init_step: Any) -> None:
    """Raises TypeError or ValueError unless `init_step` is a pair of a known kind and a number > 0."""
    if not isinstance(init_step, tuple) or len(init_step) != 2:
        raise TypeError(
            f"{owner}: argument 'init_step' must be a pair such as ('heuristic', 1e-6); "
            f"got {describe(init_step)}"
        )
    kind, size = init_step
    if kind not in INIT_STEPS:
        raise ValueError(
            f"{owner}: argument 'init_step[0]' must be one of {', '.join(map(repr, INIT_STEPS))}; "
            f"got {describe(kind)}"
        )
    if callable(size):
        raise TypeError(
            f"{owner}: argument 'init_step[1]' must be a number > 0, not a schedule; got {describe(size)}"
        )
    POSITIVE.check(owner, "init_step[1]", size)


@transformation(reports=("distance", "step"), elementwise=True, sums=True)
def scale_by_dog(init_step: tuple[str, Any] = ("heuristic", 1e-6), eps: NonNegative = 1e-8) -> Pair:
    """Multiplies by the greatest distance from the start over the root of the summed squared norms.

        max_dist = max(max_dist, |p - p0|)
        total = total + |g|^2
        u = max_dist / sqrt(total + eps) * g

    Args:
      init_step: ("distance", d) sets the first `max_dist`; ("heuristic", r) sets it to `r * (1 + |p0|)`;
        the authors advise r = 1e-6, or 1e-4 with batch normalization; ("learning_rate", step) sets the
        step of the first nonzero gradient. The numbers are > 0.
      eps: added to the sum, >= 0.

    Needs `params`. Reports `distance` and `step`. Raises ValueError inside `shard_map`.
    Source: Ivgi, Hinder, Carmon 2023, arXiv:2302.12022.
    """
    check_init_step("scale_by_dog", init_step)
    kind, size = init_step

    def init(params: Params) -> OptState:
        refuse_varying("a norm", params)
        dtype = scalar_dtype(params)
        dist = zero_scalar(params, dtype)
        if kind == "distance":
            dist = dist + as_scalar(size, dtype)
        elif kind == "heuristic":
            dist = dist + as_scalar(size, dtype) * (1 + tree.norm(params).astype(dtype))
        start = jax.tree.map(lambda p: jnp.array(p, p.dtype, copy=True), params)
        return DoGState(zero_scalar(params, bool, True), start, dist, zero_scalar(params, dtype))

    def update(updates: Updates, state: DoGState, params: Params) -> tuple[Updates, DoGState]:
        refuse_varying("a norm", updates, params)
        dtype = state.max_dist.dtype
        check_like("updates", updates, "state", state.init_params)
        dist = greatest_distance(state.max_dist, state.init_params, params)
        norm, shrink = (x.astype(dtype) for x in bounded_norm(*scaled_norm(updates)))
        total = saturated(state.sum_sq_norm_grads) + norm * norm
        step = dist / jnp.sqrt(total + as_scalar(eps, dtype))
        if kind == "learning_rate":
            step = jnp.where(state.is_init_step, as_scalar(size, dtype), step)
        step = shrink * step
        report("distance", dist)
        report("step", step)
        u, start = leafwise(scale_and_keep_start_rule, (updates, state.init_params), step=step)
        # A zero gradient does not end the initial phase: nothing has moved, and the distance may be 0.
        return u, DoGState(state.is_init_step & (total <= 0), start, dist, total)

    return init, update


@transformation
def dog(
    learning_rate: Rate = 1.0,
    init_step: tuple[str, Any] = ("heuristic", 1e-6),
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative | None = None,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """DoG: an L2 penalty, then `scale_by_dog`, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule; the authors advise 1.
      weight_decay: weight of the penalty, >= 0, or None for no penalty.
      mask: where to decay; see `add_decayed_weights`.

    The others and the source as in `scale_by_dog`. The authors advise averaging the parameters.
    """
    check_init_step("dog", init_step)
    return chain(
        identity() if weight_decay is None else add_decayed_weights(weight_decay, mask),
        scale_by_dog(init_step, eps),
        scale_by_learning_rate(learning_rate),
    )

"""QK-clip: the weights of queries and keys shrink where attention logits grow too large."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._context import stage_name
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import compute_dtype, is_complex, is_inexact, real_dtype
from gradflow._errors import describe
from gradflow._expressions._arguments import Fraction, Positive
from gradflow._rules._leafwise import leafwise
from gradflow._rules._state import increment, zero_scalar
from gradflow._selection._parameters import Parameter, named_leaves
from gradflow._selection._selectors import as_selector
from gradflow._types import OptState, Pair, Params, Updates, is_absent
from gradflow.tree._paths import show


class QKClipState(NamedTuple):
    """Steps taken, and the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    inner_state: OptState


def qk_clip_rule(u: jax.Array, factor: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """p_new = factor * (p + u)."""
    return factor * (p + u) - p


@transformation(reports=("clipped",))
def with_qk_clip(
    inner: GradientTransformation,
    queries: Any,
    keys: Any,
    head_axis: int,
    threshold: Positive = 100.0,
    alpha: Fraction = 0.5,
) -> Pair:
    """Shrinks the query and key weights of each head whose largest attention logit exceeds `threshold`.

        gamma = min(1, threshold / max_logit)                        of each head
        q_new = gamma^alpha * (q + inner(g)),  k_new = gamma^(1 - alpha) * (k + inner(g))

    MuonClip is `with_qk_clip(muon(0.02), "**/query/kernel", "**/key/kernel", head_axis=-2)`, called by
    `update(grads, state, params, max_logits={"block_0": logits, ...})`.

    Args:
      inner: the whole optimizer: the weights shrink after its step.
      queries: selector, or a pattern of paths, of the queries' weights.
      keys: the same for the keys; None if they stay, as MLA's shared rotary key does with `alpha=1`.
      head_axis: the axis of heads: -2 for `(inputs, heads, dim)`, -1 for `(inputs, heads * dim)`. Where
        there are fewer keys' heads, each takes the smallest gamma of its group of queries' heads.
      threshold: > 0; 100 in the paper.
      alpha: the queries' share, in [0, 1]; 0.5 in the paper.

    The extra argument `max_logits` is a tree of arrays, each with the largest logit of every head in this
    batch, at the path of its layer: a prefix of the paths of the weights. An array alone serves all layers;
    axes before the last are those of stacked layers. Needs `params`. Raises ValueError naming a weight that
    has no logits, or another number of heads. Reports `clipped`, the number of heads that shrink.
    Source: Kimi Team 2025, arXiv:2507.20534.

    >>> import gradflow as gf
    >>> print(gf.with_qk_clip(gf.muon(0.02), '**/query', '**/key', 1))
    with_qk_clip(muon(0.02), '**/query', '**/key', 1)
    """
    roles = {"queries": as_selector(queries), **({} if keys is None else {"keys": as_selector(keys)})}

    def init(params: Params) -> OptState:
        return QKClipState(zero_scalar(params), inner.init(params))

    def update(
        updates: Updates, state: QKClipState, params: Params, *, max_logits: Any, **extra: Any
    ) -> tuple[Updates, QKClipState]:
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        parameters, _ = named_leaves(params)
        logits = _logits_by_path(max_logits)
        steps: list[Any]
        structure: Any
        steps, structure = jax.tree.flatten(updates, is_leaf=is_absent)
        clipped = jnp.zeros((), jnp.float32)
        places: list[int] = []
        factors: list[jax.Array] = []
        for role, selector in roles.items():
            for index, chosen in enumerate(selector.choose(parameters)):
                if not chosen or is_absent(steps[index]):
                    continue
                if index in places:
                    raise ValueError(
                        f"{stage_name()}: {_show(parameters[index])} is chosen by 'queries' and by 'keys'"
                    )
                precision = real_dtype(compute_dtype(parameters[index].leaf.dtype))
                share, limit = jnp.asarray(alpha, precision), jnp.asarray(threshold, precision)
                gamma = _gamma(_logits_of(parameters[index], logits).astype(precision), limit)
                if role == "queries":
                    clipped = clipped + jnp.sum(gamma < 1, dtype=jnp.float32)
                places.append(index)
                factors.append(
                    _spread(gamma, parameters[index], head_axis)
                    ** (share if role == "queries" else 1 - share)
                )
        report("clipped", clipped)
        leaves = jax.tree.leaves(params, is_leaf=is_absent)
        if places:
            rows = [steps[i] for i in places], factors, [leaves[i] for i in places]
            for index, u in zip(places, leafwise(qk_clip_rule, rows, shapes=False)[0], strict=True):
                steps[index] = u
        return jax.tree.unflatten(structure, steps), QKClipState(increment(state.count), inner_state)

    return init, update


def _logits_by_path(max_logits: Any) -> dict[tuple[str, ...], jax.Array]:
    found = {}
    for parameter in named_leaves(max_logits)[0]:
        leaf = parameter.leaf
        is_real = hasattr(leaf, "dtype") and is_inexact(leaf.dtype) and not is_complex(leaf.dtype)
        if not is_real or jnp.ndim(leaf) < 1:
            raise TypeError(
                f"{stage_name()}: the extra argument 'max_logits' must have arrays of floating-point numbers "
                f"whose last axis is that of heads; got {describe(leaf)} at {show('/'.join(parameter.path))}"
            )
        found[parameter.path] = jnp.asarray(leaf)
    return found


def _logits_of(parameter: Parameter, logits: dict[tuple[str, ...], jax.Array]) -> jax.Array:
    for n in range(len(parameter.path), -1, -1):
        if parameter.path[:n] in logits:
            return logits[parameter.path[:n]]
    given = ", ".join(show("/".join(path)) for path in logits) or "no arrays"
    raise ValueError(
        f"{stage_name()}: the extra argument 'max_logits' has nothing for {_show(parameter)}; it has "
        f"{given}. Its paths must be those of the layers."
    )


def _gamma(logits: jax.Array, threshold: jax.Array) -> jax.Array:
    """By how much the logits must shrink; 1 where they are small, or not numbers."""
    large = (logits > threshold) & (logits < jnp.inf)
    return jnp.where(large, threshold / jnp.where(large, logits, 1), 1)


def _spread(gamma: jax.Array, parameter: Parameter, head_axis: int) -> jax.Array:
    """A factor for each head in a shape that broadcasts to the weights'."""
    shape, heads = parameter.leaf.shape, gamma.shape[-1]
    batch = gamma.shape[:-1]
    fits = -len(shape) <= head_axis < len(shape) and tuple(shape[: len(batch)]) == tuple(batch)
    axis = head_axis % len(shape) if fits else 0
    fits = fits and axis >= len(batch) and heads > 0
    length = shape[axis] if fits else 0
    if not fits or (length % heads and heads % max(length, 1)):
        raise ValueError(
            f"{stage_name()}: {_show(parameter)}, of shape {tuple(shape)}, does not have the {heads} heads "
            f"of 'max_logits', of shape {tuple(gamma.shape)}, along axis {head_axis}. Check 'head_axis'."
        )
    if length < heads:
        gamma = jnp.min(gamma.reshape(*batch, length, heads // max(length, 1)), axis=-1, initial=1)
    gamma = jnp.repeat(gamma, length // gamma.shape[-1], axis=-1)
    between: Sequence[int] = [1] * (axis - len(batch))
    return gamma.reshape(*batch, *between, length, *[1] * (len(shape) - axis - 1))


def _show(parameter: Parameter) -> str:
    return f"the weight at '{'/'.join(parameter.path)}'"

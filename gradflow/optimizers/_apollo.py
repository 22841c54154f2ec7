"""APOLLO: Adam's scaling, estimated per channel from a random projection of the gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import real_dtype
from gradflow._expressions._arguments import Decay, NonNegative, Positive, PositiveLength, Rate, Size
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean, Square
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._rules._unit_norm import unit_norm, unit_norms
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.optimizers._adam import adam_rule, adam_scalars
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.transforms._keys import as_key, check_key

_DOWN = 2.0**-24  # keeps the sums of a projection in range


class ScaleByApolloState(NamedTuple):
    """Steps taken, Adam's moments of the projected gradients, and the norm of each leaf's last update."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square
    norm: Updates


def _projected_shape(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The shape of a leaf's moments: its shorter side is projected, where it is a matrix and longer."""
    if len(shape) != 2 or min(shape) <= rank:
        return shape
    return (rank, shape[1]) if shape[0] < shape[1] else (shape[0], rank)


def apollo_rule(
    g: jax.Array,
    mu: jax.Array,
    nu: jax.Array,
    norm: jax.Array,
    projection: jax.Array,
    s: Any,
    *,
    tensor_wise: bool,
) -> tuple[jax.Array, ...]:
    """Zhu et al. 2024, Algorithm 1; Adam for a leaf that is not projected."""
    if mu.shape == g.shape:
        return *adam_rule(g, mu, nu, s), jnp.copy(norm)
    wide = g.shape[0] < g.shape[1]
    small = (_DOWN * projection).astype(g.dtype)
    r = small @ g if wide else g @ small
    largest = jnp.finfo(norm.dtype).max / 4 * _DOWN
    size, power = unit_norm(r)
    shrunk = jnp.minimum(1, largest / jnp.maximum(size / power, largest))  # below 1 for numbers of 1e38
    r = r * shrunk / _DOWN
    direction, mu, nu = adam_rule(r, mu, nu, s)
    axis = None if tensor_wise else 0 if wide else 1
    (top, up), (bottom, down) = unit_norms((direction, r), axis)
    u = (top / up) / (bottom / down + s.eps) * (shrunk * g)
    size, power = unit_norm(u)
    new = (size / power).reshape(())
    limited = (norm > 0) & (new > s.growth_limit * norm)
    factor = jnp.where(limited, s.growth_limit * norm / jnp.where(limited, new, 1), 1)
    return s.scale * factor * u, mu, nu, factor * new


@transformation
def scale_by_apollo(
    rank: PositiveLength = 256,
    update_proj_gap: Size = 200,
    scale: NonNegative = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    growth_limit: Positive = 1.01,
    key: Any = 0,
    *,
    tensor_wise: bool = False,
) -> Pair:
    """Scales each channel of a matrix as Adam scales a random projection of it to few rows.

        r = projection @ g,  projection ~ N(0, 1 / rank), new every update_proj_gap steps
        d = scale_by_adam(r)
        u = g * norm(d) / (norm(r) + eps)                    of each column, or of the whole matrix
        u = scale * u, after a limit of norm(u) to growth_limit times its last value

    Args:
      rank: rows of the projection, >= 1. Vectors, arrays of other ranks, and matrices whose shorter side is
        not larger take Adam's step.
      update_proj_gap: steps with one projection, >= 1. It is drawn again at each step and not stored.
      scale: >= 0.
      growth_limit: > 0; 1.01 in the paper.
      key: a PRNG key or an integer seed.
      tensor_wise: one factor for the whole matrix. APOLLO-Mini is this with `rank=1, scale=128**0.5`.

    The others as in `scale_by_adam`. Raises ValueError inside `shard_map` on updates that differ between
    devices. Source: Zhu et al. 2024, arXiv:2412.05270.
    """
    check_key("scale_by_apollo", key)
    rule = specialize(apollo_rule, tensor_wise=tensor_wise)

    def init(params: Params) -> OptState:
        def zeros(p: Any, dtype: Any) -> jax.Array:
            like = tree.zeros_like(p, dtype)
            shape = _projected_shape(p.shape, rank)
            if shape == p.shape:
                return like
            # Products of zeros lie where those of the gradients will.
            if shape[0] == rank:
                return jnp.zeros((rank, p.shape[0]), dtype) @ like
            return like @ jnp.zeros((p.shape[1], rank), dtype)

        return ScaleByApolloState(
            zero_scalar(params),
            jax.tree.map(lambda p: zeros(p, p.dtype), params),
            jax.tree.map(lambda p: zeros(p, at_least_float32(real_dtype(p.dtype))), params),
            jax.tree.map(lambda p: zero_scalar(p, at_least_float32(real_dtype(p.dtype))), params),
        )

    def update(
        updates: Updates, state: ScaleByApolloState, params: Params | None = None
    ) -> tuple[Updates, ScaleByApolloState]:
        refuse_varying("a projection", updates)
        needed = jax.tree.map(
            lambda g: jax.ShapeDtypeStruct(_projected_shape(g.shape, rank), g.dtype), updates
        )
        check_like("what the updates need", needed, "state", state.mu)
        drawn = jax.random.fold_in(as_key(key), state.count // update_proj_gap)
        count = increment(state.count)
        u, *new = leafwise(
            rule, (updates, *state[1:], _projections(drawn, updates, rank)), adam_scalars, shapes=False,
            count=count, b1=b1, b2=b2, eps=eps, eps_root=0.0, scale=scale, growth_limit=growth_limit,
        )  # fmt: skip
        return u, ScaleByApolloState(count, *new)

    return init, update


def _projections(key: Any, updates: Updates, rank: int) -> Updates:
    """A projection for each leaf, to be multiplied from the side of the shorter axis; a zero elsewhere."""
    leaves, structure = jax.tree.flatten(updates)

    def draw(index: int, g: jax.Array) -> jax.Array:
        if _projected_shape(g.shape, rank) == g.shape:
            return jnp.zeros((), jnp.float32)
        m, n = g.shape
        shape = (rank, m) if m < n else (n, rank)
        return jax.random.normal(jax.random.fold_in(key, index), shape, jnp.float32) * rank**-0.5

    return jax.tree.unflatten(structure, [draw(i, g) for i, g in enumerate(leaves)])


@transformation
def apollo(
    learning_rate: Rate,
    rank: PositiveLength = 256,
    update_proj_gap: Size = 200,
    scale: NonNegative = 1.0,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    key: Any = 0,
    *,
    tensor_wise: bool = False,
) -> GradientTransformation:
    """APOLLO: `scale_by_apollo`, decoupled weight decay, the learning rate; the authors use 1e-2.

    Arguments as in `scale_by_apollo` and `adamw`. Source: Zhu et al. 2024, arXiv:2412.05270.
    """
    return chain(
        scale_by_apollo(rank, update_proj_gap, scale, key=key, tensor_wise=tensor_wise),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

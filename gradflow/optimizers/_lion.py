"""Lion: the sign of a momentum that is read before it is averaged."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._base import GradientTransformation, OptState, Pair, Params, Updates, transformation
from gradflow._compose import chain
from gradflow._hyper import Decay, NonNegative, Positive, Rate
from gradflow._leafwise import Scalars, leafwise
from gradflow._select import MaskOrFn
from gradflow._state import first_moment, increment, zero_scalar
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByLionState(NamedTuple):
    """Steps taken, and the averaged gradient."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Updates


def lion_scalars(b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements."""
    return {"c1": 1 - b1, "c2": 1 - b2}


def lion_rule(g: jax.Array, mu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """Chen et al. 2023, Program 1."""
    return jnp.sign(s.b1 * mu + s.c1 * g), s.b2 * mu + s.c2 * g


def smooth_lion_rule(g: jax.Array, mu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The same with a sign that passes through zero smoothly."""
    return jnp.tanh(s.smooth_beta * (s.b1 * mu + s.c1 * g)), s.b2 * mu + s.c2 * g


def refined_lion_rule(g: jax.Array, mu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The same with a sign that is linear around zero."""
    return jnp.clip(s.b1 * mu + s.c1 * g, -1, 1), s.b2 * mu + s.c2 * g


_RULES = {"hard": lion_rule, "smooth": smooth_lion_rule, "refined": refined_lion_rule}


@transformation(leaves="real")
def scale_by_lion(
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: Any = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Positive = 1.0,
) -> Pair:
    """Takes the sign of a mixture of momentum and gradient.

        u = sign(b1 * mu + (1 - b1) * g)
        mu = b2 * mu + (1 - b2) * g

    Args:
      b1: share of the momentum in the step, in [0, 1).
      b2: decay of the momentum, in [0, 1).
      mu_dtype: dtype of the momentum; the parameters' by default.
      mode: "hard" is the sign; "smooth" has `tanh(smooth_beta * x)`, "refined" `clip(x, -1, 1)`.
      smooth_beta: steepness of the smooth sign, > 0.

    Source: Chen et al. 2023, arXiv:2302.06675.
    """
    if mode not in _RULES:
        raise ValueError(f"scale_by_lion: argument 'mode' must be one of {sorted(_RULES)}; got {mode!r}")
    rule = _RULES[mode]

    def init(params: Params) -> OptState:
        return ScaleByLionState(zero_scalar(params), first_moment(params, mu_dtype))

    def update(
        updates: Updates, state: ScaleByLionState, params: Params | None = None
    ) -> tuple[Updates, ScaleByLionState]:
        u, mu = leafwise(rule, (updates, state.mu), lion_scalars, b1=b1, b2=b2, smooth_beta=smooth_beta)
        return u, ScaleByLionState(increment(state.count), mu)

    return init, update


@transformation
def lion(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 1e-3,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """Lion: `scale_by_lion`, decoupled weight decay, the learning rate, a third to a tenth of AdamW's.

    Arguments as in `scale_by_lion` and `adamw`. Source: Chen et al. 2023, arXiv:2302.06675.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

"""Lion: the sign of a mixture of momentum and gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._rules._leafwise import Scalars, leafwise, specialize
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment, increment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ScaleByLionState(NamedTuple):
    """Steps taken, and the averaged gradient."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean


def lion_scalars(b1: jax.Array, b2: jax.Array, **_: jax.Array) -> Scalars:
    """The decays' complements, and the weights of the new momentum and of g in the mixture."""
    c1, c2 = 1 - b1, 1 - b2
    back = b1 / jnp.where(b2 > 0, b2, jnp.ones_like(b2))
    return {"c1": c1, "c2": c2, "back": back, "rest": c1 - back * c2}


def lion_rule(
    g: jax.Array, mu: jax.Array, s: Any, *, sign: Callable[..., jax.Array], read_back: bool
) -> tuple[jax.Array, ...]:
    """Chen et al. 2023, Program 1; with `read_back` the old momentum is `(mu_new - c2 * g) / b2`."""
    new = s.b2 * mu + s.c2 * g
    mixed = s.back * new + s.rest * g if read_back else s.b1 * mu + s.c1 * g
    return sign(mixed, s), new


def hard(x: jax.Array, s: Any) -> jax.Array:
    """The sign."""
    return jnp.sign(x)


def smooth(x: jax.Array, s: Any) -> jax.Array:
    """A smooth sign."""
    return jnp.tanh(s.smooth_beta * x)


def refined(x: jax.Array, s: Any) -> jax.Array:
    """A sign that is linear around zero."""
    return jnp.clip(x, -1, 1)


_SIGNS = {"hard": hard, "smooth": smooth, "refined": refined}


@transformation(leaves="real", packable=True)
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
      b1: weight of the momentum in the mixture, in [0, 1).
      b2: decay of the momentum, in [0, 1).
      mu_dtype: dtype of the momentum; the parameters' by default.
      mode: "hard" is the sign, "smooth" is `tanh(smooth_beta * x)`, "refined" is `clip(x, -1, 1)`.
      smooth_beta: steepness of the smooth sign, > 0.

    For a concrete `b2` >= 0.5 the mixture is computed from the new momentum, which spares a copy of the
    state. The two agree up to rounding, so a sign may differ where momentum and gradient cancel.
    Source: Chen et al. 2023, arXiv:2302.06675.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.scale_by_lion(), gf.scale_by_learning_rate(1e-4)))
    chain(scale_by_lion(), scale_by_learning_rate(0.0001))
    """
    if mode not in _SIGNS:
        raise ValueError(
            f"scale_by_lion: argument 'mode' must be one of {sorted(_SIGNS)}; got {describe(mode)}"
        )
    # A small b2 would amplify the rounding, and the value of a traced one is not known.
    read_back = isinstance(b2, int | float | np.ndarray | np.generic) and float(b2) >= 0.5
    rule = specialize(lion_rule, sign=_SIGNS[mode], read_back=read_back)

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
    """Lion: `scale_by_lion`, decoupled weight decay, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule; a third to a tenth of the one for `adamw`.

    The others as in `scale_by_lion` and `adamw`. Source: Chen et al. 2023, arXiv:2302.06675.
    """
    return chain(
        scale_by_lion(b1, b2, mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

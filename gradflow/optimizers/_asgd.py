"""ASGD: gradient descent with a falling rate, and the average of its points."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._expressions._arguments import NonNegative, Rate
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._roles import Weights
from gradflow._rules._state import at_least_float32, increment, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._eval_params import averages


class AsgdState(NamedTuple):
    """Steps taken, and the average of the parameters."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    average: Weights


def asgd_scalars(
    count: jax.Array, learning_rate: jax.Array, lambd: jax.Array, alpha: jax.Array, t0: jax.Array
) -> Scalars:
    """The rate of step `count`, from 0, and the weight of its point in the average."""
    t = count.astype(learning_rate.dtype)
    eta = learning_rate * jnp.exp(-alpha * jnp.log1p(lambd * learning_rate * t))
    return {"eta": eta, "share": 1 / jnp.maximum(t - t0, 1)}


def asgd_rule(g: jax.Array, average: jax.Array, p: jax.Array, s: Any) -> tuple[jax.Array, jax.Array]:
    """Polyak & Juditsky 1992, with the rates of Bottou 2010."""
    u = -s.eta * (g + s.lambd * p)
    return u, average + s.share * (p + u - average)


@transformation(reports=("learning_rate",), packable=True, last=True)
def asgd(
    learning_rate: Rate, lambd: NonNegative = 1e-4, alpha: NonNegative = 0.75, t0: NonNegative = 1e6
) -> Pair:
    """Gradient descent whose points are averaged after step `t0`, for `eval_params`.

        eta = learning_rate / (1 + lambd * learning_rate * t)^alpha,  t = 0, 1, ...
        u = -eta * (g + lambd * p)
        average = average + (p + u - average) / max(1, t - t0)

    Args:
      learning_rate: >= 0.
      lambd: the weight decay, and how fast the rate falls, >= 0.
      alpha: power of the rate, >= 0.
      t0: the step at which the average begins, >= 0.

    Defaults are PyTorch's. The average is held in float32 at least. Needs `params`. Reports `learning_rate`,
    which is `eta`. Source: Polyak & Juditsky 1992; Bottou 2010 for the rate.
    """

    def init(params: Params) -> OptState:
        return AsgdState(
            zero_scalar(params), jax.tree.map(lambda p: tree.zeros_like(p, at_least_float32(p.dtype)), params)
        )

    def update(updates: Updates, state: AsgdState, params: Params) -> tuple[Updates, AsgdState]:
        numbers: dict[str, Any] = {
            "learning_rate": learning_rate, "lambd": lambd, "alpha": alpha, "t0": t0,
        }  # fmt: skip
        report("learning_rate", lambda: _rate(state.count, numbers))
        u, average = leafwise(
            asgd_rule, (updates, state.average, params), asgd_scalars, count=state.count, **numbers
        )
        return u, AsgdState(increment(state.count), average)

    return init, update


def _rate(count: jax.Array, numbers: dict[str, Any]) -> jax.Array:
    scalars = asgd_scalars(count, **{n: jnp.asarray(x, jnp.float32) for n, x in numbers.items()})
    return scalars["eta"]


def asgd_read_rule(p: jax.Array, average: jax.Array, s: Any) -> jax.Array:
    """The average; p before the first step."""
    return jnp.where(s.count > 0, average, p)


def _read(params: list[Any], average: list[Any], state: AsgdState) -> list[Any]:
    (found,) = leafwise(asgd_read_rule, (params, average), count=state.count)
    return list(found)


averages(AsgdState, "average", _read)

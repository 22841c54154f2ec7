"""Steps that end in a proximal operator or in a set."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._calls._context import stage_name
from gradflow._calls._reports import collecting, forward
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import NonNegative
from gradflow._rules._leafwise import leafwise
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.proximals._penalty import OPERATOR, check_operator
from gradflow.tree._paths import is_none


def step_rule(u: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """The parameters after the step."""
    return p + u


def way_rule(q: jax.Array, p: jax.Array, s: Any) -> jax.Array:
    """The way from the parameters to a point."""
    return q - p


def _way_to(mapped: Callable[[Params], Params], updates: Updates, params: Params) -> Updates:
    """The way from the parameters to what a function makes of the parameters after the step."""
    (there,) = leafwise(step_rule, (updates, params))
    there = mapped(there)
    there = jax.tree.map(lambda u, q: None if u is None else q, updates, there, is_leaf=is_none)
    return leafwise(way_rule, (there, params))[0]


@transformation(last=True, constrained_by=("penalty",))
def proximal(inner: GradientTransformation, penalty: Any, step: NonNegative | None = None) -> Pair:
    """Applies a penalty after the step of `inner`, by its proximal operator.

        u = penalty(p + inner(g), step) - p

    Args:
      inner: a whole optimizer. With `sgd` this is proximal gradient descent.
      penalty: a value such as `l1_penalty(0.01)`, or a function `(params, step) -> params`.
      step: >= 0; None takes the learning rate that `inner` reports.

    The step is that of the gradient. Under `sgd(rate, momentum)` gradients add up to a step of
    `rate / (1 - momentum)`: pass that as `step`. An optimizer that scales each number differently, such as
    Adam, ends where the penalty and the *scaled* gradient balance. Needs `params`. Raises ValueError in
    `update` where `step` is None and `inner` does not report one learning rate; TypeError for another
    `penalty`.
    Source: Parikh & Boyd 2014, section 4.2.

    >>> import gradflow as gf
    >>> print(gf.proximal(gf.sgd(0.1), gf.l1_penalty(0.01)))
    proximal(sgd(0.1), l1_penalty(0.01))
    """
    check_operator("proximal", "penalty", penalty, OPERATOR)

    def update(updates: Updates, state: OptState, params: Params, **extra: Any) -> tuple[Updates, OptState]:
        refuse_varying("a proximal operator", updates, params)
        with collecting() as collector:
            u, state = inner.update(updates, state, params, **extra)
        forward(collector.values)
        size = _reported_rate(collector.values) if step is None else jnp.asarray(step)
        return _way_to(lambda p: penalty(p, size), u, params), state

    return inner.init, update


def _reported_rate(reports: dict[str, jax.Array]) -> jax.Array:
    rates = [name for name in reports if name.rpartition(".")[2] == "learning_rate"]
    if len(rates) == 1:
        return reports[rates[0]]
    found = (
        f"rates of {', '.join(name.rpartition('.')[0] for name in rates)}" if rates else "no learning rate"
    )
    raise ValueError(f"{stage_name()}: argument 'step' must be given, because 'inner' reports {found}")


@transformation(last=True, constrained_by=("projection",))
def projected(inner: GradientTransformation, projection: Any) -> Pair:
    """Keeps parameters in a set: projects what the step of `inner` leads to.

        u = projection(p + inner(g)) - p

    Args:
      inner: a whole optimizer, with its learning rate.
      projection: a function from parameters to parameters, such as those of `gradflow.projections`, or a set
        such as `box_constraint(0.0, 1.0)`.

    Parameters that start outside are inside after the first step; adding the update to them may miss the
    set's border by their rounding. In a set that is not convex, such as a sphere, the end may be the best
    point only nearby. `check` finds a projection that moves what it returned. Needs `params`. Raises
    TypeError for what is not a function.

    >>> import gradflow as gf
    >>> print(gf.projected(gf.sgd(0.1), gf.projections.projection_non_negative))
    projected(sgd(0.1), projection_non_negative)
    """
    expected = "a function of parameters, as gradflow.projections.projection_simplex"
    check_operator("projected", "projection", projection, expected)

    def update(updates: Updates, state: OptState, params: Params, **extra: Any) -> tuple[Updates, OptState]:
        refuse_varying("a projection", updates, params)
        u, state = inner.update(updates, state, params, **extra)
        return _way_to(projection, u, params), state

    return inner.init, update

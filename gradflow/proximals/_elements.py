"""Penalties that act on each number, and sets that bound each number."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradflow._dtypes import is_complex
from gradflow.proximals._penalty import PenaltyRule, Weight, like, penalty, shrunk
from gradflow.tree._bounds import Owner, between, check_bound, read_bounds


@penalty
def l1_penalty(weight: Weight) -> PenaltyRule:
    """The sum of absolute values, as in the lasso: small numbers become exactly zero.

        amount = weight * sum|p|
        prox = sign(x) * max(|x| - step * weight, 0)

    Args:
      weight: >= 0.

    The absolute value of a complex number is its modulus. Source: Tibshirani 1996.
    """
    return PenaltyRule(
        lambda x, step: shrunk(x, step * like(x, weight)),
        lambda x: like(x, weight) * jnp.sum(jnp.abs(x)),
    )


@penalty
def ridge_penalty(weight: Weight) -> PenaltyRule:
    """Half the sum of squares: numbers shrink in proportion.

        amount = weight / 2 * sum|p|^2
        prox = x / (1 + step * weight)

    Args:
      weight: >= 0; scikit-learn's `alpha` of `Ridge` is half of it.
    """
    return PenaltyRule(
        lambda x, step: x / (1 + step * like(x, weight)),
        lambda x: like(x, weight) / 2 * _squares(x),
    )


@penalty
def elastic_net_penalty(l1: Weight, l2: Weight) -> PenaltyRule:
    """The sum of `l1_penalty(l1)` and `ridge_penalty(l2)`.

        amount = l1 * sum|p| + l2 / 2 * sum|p|^2
        prox = sign(x) * max(|x| - step * l1, 0) / (1 + step * l2)

    Args:
      l1: >= 0; `alpha * l1_ratio` of scikit-learn.
      l2: >= 0; `alpha * (1 - l1_ratio)` of scikit-learn.

    Source: Zou & Hastie 2005.
    """
    return PenaltyRule(
        lambda x, step: shrunk(x, step * like(x, l1)) / (1 + step * like(x, l2)),
        lambda x: like(x, l1) * jnp.sum(jnp.abs(x)) + like(x, l2) / 2 * _squares(x),
    )


@penalty
def nonnegative_l1_penalty(weight: Weight) -> PenaltyRule:
    """`l1_penalty(weight)` for numbers that must be at least 0.

        prox = max(x - step * weight, 0)

    Args:
      weight: >= 0; 0 is the set of numbers >= 0 alone.

    Raises TypeError for complex parameters.
    """

    def prox(x: jax.Array, step: jax.Array) -> jax.Array:
        _check_real("nonnegative_l1_penalty", x)
        by = step * like(x, weight)
        return jnp.where(x <= by, 0, x - by)

    def amount(x: jax.Array) -> jax.Array:
        inside = jnp.all(x >= 0)
        return jnp.where(inside, like(x, weight) * jnp.sum(x), jnp.inf)

    return PenaltyRule(prox, amount)


@penalty
def box_constraint(lower: Any = None, upper: Any = None) -> Any:
    """The set of parameters between two bounds.

        prox = min(max(x, lower), upper)

    Args:
      lower, upper: a number or array that broadcasts to each leaf, or a tree like the parameters of them;
        None, there or alone, for no bound. Infinite bounds are none.

    Raises ValueError for a lower bound above the upper one and for NaN, unless they are jax arrays, and in a
    call for bounds that do not fit the parameters; TypeError for complex parameters.
    """
    for name, bound in (("lower", lower), ("upper", upper)):
        for leaf in jax.tree.leaves(bound):
            check_bound("box_constraint", name, leaf)

    def rules(params: Any, leaves: Sequence[jax.Array]) -> list[PenaltyRule]:
        for x in leaves:
            _check_real("box_constraint", x)
        return [_between(*pair) for pair in read_bounds(Owner("box_constraint"), params, lower, upper)]

    return rules


def _between(lower: Any, upper: Any) -> PenaltyRule:
    def prox(x: jax.Array, step: jax.Array) -> jax.Array:
        return between(x, lower, upper)

    def amount(x: jax.Array) -> jax.Array:
        return jnp.where(jnp.all(between(x, lower, upper) == x), like(x, 0), jnp.inf)

    return PenaltyRule(prox, amount)


def _check_real(name: str, x: jax.Array) -> None:
    if is_complex(x.dtype):
        raise TypeError(f"{name}: parameters must be real; got {x.dtype}")


def _squares(x: jax.Array) -> jax.Array:
    return jnp.sum((x * x.conj()).real)

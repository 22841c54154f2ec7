"""Penalties are values: each has its proximal operator and its amount."""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import Number, is_number_or_array
from gradflow._dtypes import compute_dtype, is_inexact, real_dtype
from gradflow._errors import describe
from gradflow._expressions._arguments import Interval, Scalar
from gradflow._expressions._factory import P, decorate
from gradflow._expressions._functions import FunctionValue, register_functions
from gradflow._expressions._numbers import take_arrays
from gradflow.tree._paths import path_string, show

_STEP = Number(0)


class PenaltyRule(NamedTuple):
    """What a factory of penalties returns: functions `prox(x, step)` and `amount(x)` of one leaf.

    A leaf is given in float32 at least, `step` as a scalar of its precision. `amount` returns a real scalar.
    """

    prox: Callable[[jax.Array, jax.Array], jax.Array]
    amount: Callable[[jax.Array], jax.Array]


class Penalty(FunctionValue):
    """A function of parameters to be kept small, or a set that parameters must stay in.

    `penalty(params, step)` is its proximal operator, `argmin_p |p - params|^2 / 2 + step * amount(p)`, for a
    scalar `step` >= 0.
    """

    __slots__ = ()

    def __call__(self, params: Any, step: Any = 1.0) -> Any:
        _STEP.check(self.expression.name, "step", step)

        def prox(x: jax.Array, rule: PenaltyRule) -> jax.Array:
            wide = x.astype(compute_dtype(x.dtype))
            return rule.prox(wide, jnp.asarray(step, real_dtype(wide.dtype))).astype(x.dtype)

        return self._map(prox, params)

    def amount(self, params: Any) -> jax.Array:
        """The penalty itself, a real scalar; 0 inside a set and infinity outside."""

        def one(x: jax.Array, rule: PenaltyRule) -> jax.Array:
            return rule.amount(x.astype(compute_dtype(x.dtype)))

        amounts = jax.tree.leaves(self._map(one, params))
        with jax.numpy_dtype_promotion("standard"):
            return functools.reduce(jnp.add, amounts) if amounts else jnp.zeros(())

    def _map(self, function: Callable[[jax.Array, PenaltyRule], jax.Array], params: Any) -> Any:
        flat, structure = jax.tree_util.tree_flatten_with_path(params)
        for path, leaf in flat:
            if not is_number_or_array(leaf) or not is_inexact(jnp.result_type(leaf)):
                raise TypeError(
                    f"{self.expression.name}: parameters must be floating-point or complex; got "
                    f"{describe(leaf)} at {show(path_string(path))}"
                )
        leaves = [jnp.asarray(leaf) for _, leaf in flat]
        rules = self._rules(params, leaves)
        # A rule has numbers of one width, so standard promotion can only combine real with complex.
        with jax.numpy_dtype_promotion("standard"):
            results = [function(x, rule) for x, rule in zip(leaves, rules, strict=True)]
        return jax.tree.unflatten(structure, results)

    def _rules(self, params: Any, leaves: Sequence[jax.Array]) -> list[PenaltyRule]:
        """The rule of each leaf: the same for all, or what a function of the tree returns."""
        made = self._function
        return [made] * len(leaves) if isinstance(made, PenaltyRule) else made(params, leaves)


register_functions("penalty", Penalty)


def _flatten(penalty: Penalty) -> tuple[tuple[Any, ...], Any]:
    skeleton, arrays = take_arrays(penalty.expression)
    return tuple(arrays), skeleton


def _unflatten(skeleton: Any, leaves: Sequence[Any]) -> Any:
    return skeleton.rebuild(iter(leaves))


# So that a weight may be traced or batched where the penalty is an argument.
jax.tree_util.register_pytree_node(Penalty, _flatten, _unflatten)


def penalty(body: Callable[P, Any], /) -> Callable[P, Penalty]:
    """Turns a function that returns a `PenaltyRule` into a factory of penalties.

    What the factory returns is a value: it prints, compares, hashes, pickles and can be rebuilt with other
    arguments.
    """
    if not callable(body) or isinstance(body, type):
        raise TypeError(f"penalty: argument 'body' must be a function; got {describe(body)}")
    return decorate(body, "penalty", result_type=Penalty)


def check_operator(owner: str, argument: str, value: Any, expected: str) -> None:
    """Raises TypeError for what is not a function of parameters, such as a factory that was not called."""
    if not callable(value) or isinstance(value, type) or hasattr(value, "__gradflow__"):
        raise TypeError(f"{owner}: argument '{argument}' must be {expected}; got {describe(value)}")


# What an argument `penalty` may be.
OPERATOR = "a penalty, as l1_penalty(0.01), or a function of parameters and a step"


class Amount(Interval):
    """A number that a penalty is built with. It may be traced; a schedule has no step to follow."""

    or_schedule = ""

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raises TypeError for a value that is not a scalar, ValueError for a scalar out of range."""
        if callable(value):
            raise TypeError(f"{owner}: argument '{name}' must be {self}; got {describe(value)}")
        super().check(owner, name, value)


Weight = Annotated[Scalar, Amount(0.0)]


def like(x: jax.Array, number: Any) -> jax.Array:
    """A number in the real precision of a leaf."""
    return jnp.asarray(number, real_dtype(x.dtype))


def shrunk(x: jax.Array, by: jax.Array) -> jax.Array:
    """`x` with its absolute value made smaller by `by`, and 0 where it is not larger. NaN stays NaN."""
    size = jnp.abs(x)
    if jnp.issubdtype(x.dtype, np.complexfloating):
        direction = x / jnp.where(size > 0, size, 1)
    else:
        direction = jnp.sign(x)
    return jnp.where(size <= by, 0, x - direction * by)

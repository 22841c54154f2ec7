"""Keeps the hyper-parameters of one factory in the state, where a training loop reads and writes them."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import refuse_state
from gradflow._checked import DTYPE, Kind, checked
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_inexact, promote, real_dtype
from gradflow._errors import describe
from gradflow._expressions._arguments import only_number
from gradflow._rules._state import at_least_float32, increment, replicate_like, zero_scalar
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.schedules import StatefulSchedule, WrappedSchedule


class InjectStatefulHyperparamsState(NamedTuple):
    """Steps taken, the current hyper-parameters, the states of schedules, and the inner state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    hyperparams: dict[str, jax.Array]
    hyperparams_states: dict[str, Any]
    inner_state: OptState


@checked(
    static_args=Kind(
        "a name or names of arguments", lambda x: not isinstance(x, jax.Array) and isinstance(x, Iterable)
    ),
    hyperparam_dtype=DTYPE | None,
)
def inject_hyperparams(
    inner_factory: Callable[..., GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: Any = None,
) -> Callable[..., GradientTransformation]:
    """Returns a factory like `inner_factory` that keeps its numeric arguments in the state.

        tx = inject_hyperparams(adam)(learning_rate=1e-3)
        state.hyperparams["learning_rate"]          # the current value; assign to change it

    Schedules, of the step or stateful, are evaluated at every step, so a value assigned to one is overwritten
    at the next. `tunable` does the same for all stages of an expression at once.

    Args:
      inner_factory: a factory of transformations, or any function that returns one.
      static_args: names of arguments that stay fixed, such as functions that are not schedules.
      hyperparam_dtype: dtype of the numbers; by default the widest of the parameters, float32 at least, since
        a decay of 0.999 is 1 in bfloat16.

    Raises ValueError for a static argument that the factory does not have.

    >>> import gradflow as gf
    >>> tx = gf.inject_hyperparams(gf.sgd)(learning_rate=0.1)
    >>> list(gf.hyperparams(tx.init(0.0)))
    ['learning_rate']
    """
    if not callable(inner_factory):
        raise TypeError(
            "inject_hyperparams: argument 'inner_factory' must be a factory such as adam; "
            f"got {describe(inner_factory)}"
        )
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)
    signature = inspect.signature(inner_factory)
    unknown = [name for name in static if name not in signature.parameters]
    if unknown:
        raise ValueError(
            "inject_hyperparams: argument 'static_args' must name arguments of the factory, "
            f"{list(signature.parameters)}; got {unknown}"
        )

    @functools.wraps(inner_factory)
    def make(*args: Any, **kwargs: Any) -> GradientTransformation:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return injected(inner_factory, dict(bound.arguments), static, hyperparam_dtype)

    # `functools.wraps` copies the factory's record, but this function makes other values.
    make.__dict__.pop("__gradflow__", None)
    return make


@transformation(packable=True)
def injected(
    inner_factory: Callable[..., GradientTransformation],
    arguments: Mapping[str, Any],
    static_args: tuple[str, ...] = (),
    hyperparam_dtype: Any = None,
) -> Pair:
    """The transformation that `inject_hyperparams(inner_factory)` returns for these arguments.

    >>> import gradflow as gf
    >>> print(gf.injected(gf.sgd, {"learning_rate": 0.1}))
    injected(sgd, {'learning_rate': 0.1})
    """
    if not all(isinstance(name, str) for name in arguments):
        raise TypeError(f"injected: argument 'arguments' must be a dict by name; got {describe(arguments)}")
    factory = getattr(inner_factory, "__gradflow__", None)
    schedules: dict[str, StatefulSchedule] = {}
    numbers, fixed = {}, {}
    for name, value in arguments.items():
        ours = factory is None or name in factory.hyperparameters
        if name in static_args or not ours or isinstance(value, bool | np.bool_):
            fixed[name] = value
        elif isinstance(value, StatefulSchedule):
            schedules[name] = value
        elif callable(value) and not isinstance(value, type):
            schedules[name] = WrappedSchedule(value)
        elif isinstance(value, int | float | np.ndarray | np.generic | jax.Array):
            numbers[name] = value
        else:
            fixed[name] = value

    def number(value: Any) -> Any:
        """A schedule's value, which our own factories take as one number also from an array of one."""
        return value if factory is None else only_number(value)

    def build(hyperparams: Mapping[str, jax.Array]) -> GradientTransformation:
        made = inner_factory(**fixed, **hyperparams)
        return as_transformation(made, "inject_hyperparams", "the result of the factory")

    if factory is not None and all(isinstance(s, WrappedSchedule) for s in schedules.values()):
        inner_factory(**arguments)  # so that a wrong argument raises here and not at init

    def init(params: Params) -> OptState:
        dtype = hyperparam_dtype or widest_dtype(params)
        states = {name: schedule.init() for name, schedule in schedules.items()}
        states = jax.tree.map(lambda x: replicate_like(x, params), states)
        values = {**numbers, **{name: number(schedules[name](state)) for name, state in states.items()}}
        hyperparams = {
            name: replicate_like(_converted(value, dtype), params) for name, value in values.items()
        }
        return InjectStatefulHyperparamsState(
            zero_scalar(params), hyperparams, states, build(hyperparams).init(params)
        )

    def update(
        updates: Updates,
        state: InjectStatefulHyperparamsState,
        params: Params | None = None,
        **extra: Any,
    ) -> tuple[Updates, InjectStatefulHyperparamsState]:
        if set(state.hyperparams) != {*numbers, *schedules}:
            refuse_state(f"the hyper-parameters {', '.join([*numbers, *schedules])}", state)
        dtype = hyperparam_dtype or widest_dtype(updates if params is None else params)
        evaluated = {n: number(s(state.hyperparams_states[n], **extra)) for n, s in schedules.items()}
        # Copies, so that the states before and after never share a buffer.
        hyperparams = {
            name: _converted(value, dtype) for name, value in {**state.hyperparams, **evaluated}.items()
        }
        states = {n: s.update(state.hyperparams_states[n], **extra) for n, s in schedules.items()}
        updates, inner_state = build(hyperparams).update(updates, state.inner_state, params, **extra)
        count = increment(state.count)
        return updates, InjectStatefulHyperparamsState(count, hyperparams, states, inner_state)

    return init, update


def widest_dtype(params: Params) -> np.dtype:
    """The dtype of hyper-parameters for these parameters: float32, or float64 where one of them has it."""
    dtype = np.dtype(np.float32)
    for leaf in jax.tree.leaves(params):
        if is_inexact(leaf.dtype):
            dtype = promote(dtype, at_least_float32(real_dtype(leaf.dtype)))
    return dtype


def _converted(value: Any, dtype: np.dtype) -> jax.Array:
    """A copy of a number, in `dtype` if it is a floating-point one; integers and PRNG keys keep theirs."""
    own = jnp.asarray(value).dtype
    return jnp.array(value, dtype if is_inexact(own) else None, copy=True)

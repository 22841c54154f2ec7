"""Keeps all hyper-parameters of an expression in the state, to be read, changed, swept and differentiated."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._checks import refuse_state
from gradflow._calls._reports import collecting, forward, is_collecting, note
from gradflow._checked import MAPPING, checked
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_inexact
from gradflow._expressions._addresses import addresses, addresses_ending_in, replace, resolve_address
from gradflow._expressions._factory import Factory
from gradflow._expressions._keys import expression_of
from gradflow._expressions._registry import OWN_FACTORIES
from gradflow._rules._state import replicate_like, zero_scalar
from gradflow._tracebacks import one_frame
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.wrappers._inject import InjectStatefulHyperparamsState, widest_dtype

S = TypeVar("S")


class TunableState(NamedTuple):
    """The current numbers by name, the last values of the schedules, and the inner state."""

    hyperparams: dict[str, jax.Array]
    scheduled: dict[str, jax.Array]
    inner_state: OptState


class RecordingSchedule:
    """A schedule that records its values, so that `tunable` can store them in the state."""

    def __init__(self, name: str, schedule: Callable[[Any], Any]) -> None:
        self.name = name
        self.schedule = schedule

    def __call__(self, count: Any) -> Any:
        value = self.schedule(count)
        note(self.name, value)
        return value


@transformation(packable=True)
def tunable(inner: GradientTransformation) -> Pair:
    """Carries every numeric hyper-parameter of `inner`, and of all stages inside it, in the state.

        tx = tunable(chain(clip_by_global_norm(1.0), adamw(1e-3)))
        hyperparams(state)   # {"clip_by_global_norm.max_norm": 1.0, "adamw.learning_rate": 0.001, ...}
        state = set_hyperparams(state, {"adamw.learning_rate": 3e-4})   # does not recompile

    The numbers are leaves of the state, so they may be swept with `jax.vmap` and differentiated. They are
    float32, or float64 if a parameter is; the updates are bit for bit those of `inner`. Arguments that are
    schedules stay schedules. Numbers that only `init` reads are left out.

    Args:
      inner: a transformation made by factories.

    >>> import gradflow as gf
    >>> print(gf.tunable(gf.adamw(1e-3)))
    tunable(adamw(0.001))
    """
    numbers, schedules = _hyperparameters(inner)

    def init(params: Params) -> OptState:
        dtype = widest_dtype(params)
        zero = zero_scalar(params)
        return TunableState(
            {name: replicate_like(jnp.asarray(value, dtype), params) for name, (_, value) in numbers.items()},
            {n: replicate_like(jnp.asarray(s(zero), dtype), params) for n, (_, s) in schedules.items()},
            inner.init(params),
        )

    def update(
        updates: Updates, state: TunableState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, TunableState]:
        if set(state.hyperparams) != set(numbers) or set(state.scheduled) != set(schedules):
            refuse_state(f"the hyper-parameters {', '.join([*numbers, *schedules]) or '(none)'}", state)
        changes: dict[str, Any] = {numbers[name][0]: value for name, value in state.hyperparams.items()}
        changes |= {
            address: RecordingSchedule(name, schedule) for name, (address, schedule) in schedules.items()
        }
        now = replace(inner, changes)
        with collecting() as recorded:
            updates, inner_state = now.update(updates, state.inner_state, params, **extra)
        if is_collecting():
            forward(recorded.values)
            for name, value in recorded.notes.items():
                if name not in schedules:
                    note(name, value)
        # Copies, so that the states before and after never share a buffer.
        hyperparams = {name: jnp.array(value, copy=True) for name, value in state.hyperparams.items()}
        scheduled = {}
        for name, last in state.scheduled.items():
            value = jnp.asarray(recorded.notes.get(name, last), last.dtype)
            # A stage that was not called did not evaluate its schedule.
            scheduled[name] = jnp.where(jnp.isnan(value), last, value)
        return updates, TunableState(hyperparams, scheduled, inner_state)

    return init, update


Numbers = dict[str, tuple[str, Any]]


def _hyperparameters(tx: GradientTransformation) -> tuple[Numbers, Numbers]:
    """The numbers and the schedules of an expression: by name, the address and the argument there."""
    parts = addresses(tx)
    numbers: Numbers = {}
    schedules: Numbers = {}
    for address, value in parts.items():
        expression = expression_of(value)
        if expression is None or expression.maker.kind != "transformation":
            continue
        factory = cast(Factory, expression.maker)
        for argument in factory.hyperparameters:
            if factory.checked[argument].kind.at_init:
                continue
            at = f"{address}.{argument}"
            given = expression.arguments[argument]
            if callable(given):
                schedules[_short(at, parts)] = at, given
            elif given is not None:
                numbers[_short(at, parts)] = at, given
    return numbers, schedules


def _short(address: str, known: Collection[str]) -> str:
    """The shortest suffix of an address that is unique to its stage."""
    words = address.split(".")
    for length in range(2, len(words)):
        end = ".".join(words[-length:])
        if addresses_ending_in(end, known) == [address]:
            return end
    return address


def hyperparams(state: OptState) -> dict[str, jax.Array]:
    """Returns the current hyper-parameters by name, and the values of schedules at the last step.

    Raises ValueError for a state without hyper-parameters: wrap the transformation in `tunable`.

    >>> import gradflow as gf
    >>> list(gf.hyperparams(gf.tunable(gf.sgd(0.1)).init(0.0)))
    ['sgd.learning_rate']
    """
    found: dict[str, jax.Array] = {}
    for part in _hyperparameter_states("hyperparams", state):
        own = {**part.hyperparams, **getattr(part, "scheduled", {})}
        doubled = [name for name in own if name in found]
        if doubled:
            raise ValueError(
                f"hyperparams: argument 'state' must keep each hyper-parameter once; "
                f"got several of '{doubled[0]}'"
            )
        found |= own
    return found


@one_frame
@checked(changes=MAPPING)
def set_hyperparams(state: S, changes: Mapping[str, Any]) -> S:
    """Returns the state with some hyper-parameters changed.

        set_hyperparams(state, {"adamw.learning_rate": 3e-4})

    A name may be any unique suffix, `learning_rate` say. A value is a number, or an array of the shape in the
    state, concrete or traced. Nothing is recompiled.

    Raises ValueError for an unknown name (near ones are listed), an ambiguous one, one that a schedule
    drives, and a value out of range; TypeError for a value that is not a number.

    >>> import gradflow as gf
    >>> tx = gf.tunable(gf.sgd(0.1))
    >>> state = gf.set_hyperparams(tx.init(0.0), {"learning_rate": 0.5})
    >>> float(gf.hyperparams(state)["sgd.learning_rate"])
    0.5
    """
    parts = _hyperparameter_states("set_hyperparams", state)
    driven = [name for part in parts for name in _scheduled_names(part)]
    names = [name for part in parts for name in part.hyperparams if name not in _scheduled_names(part)]
    wanted: dict[str, Any] = {}
    for name, value in changes.items():
        full = _resolve(name, names, driven)
        if full in wanted:
            raise ValueError(f"set_hyperparams: argument 'changes' must name '{full}' once; got it twice")
        wanted[full] = value

    def change(part: Any) -> Any:
        if not isinstance(part, TunableState | InjectStatefulHyperparamsState):
            return part
        own = {
            name: _converted(name, wanted[name], old) if name in wanted else old
            for name, old in part.hyperparams.items()
        }
        return part._replace(hyperparams=own, inner_state=_map_parts(change, part.inner_state))

    return _map_parts(change, state)


def _map_parts(function: Callable[[Any], Any], state: Any) -> Any:
    return jax.tree.map(
        function, state, is_leaf=lambda x: isinstance(x, TunableState | InjectStatefulHyperparamsState)
    )


def _hyperparameter_states(caller: str, state: OptState) -> list[Any]:
    """The parts of a state that hold hyper-parameters, the outer ones first."""
    found: list[Any] = []

    def visit(part: Any) -> Any:
        if isinstance(part, TunableState | InjectStatefulHyperparamsState):
            found.append(part)
            _map_parts(visit, part.inner_state)
        return part

    _map_parts(visit, state)
    if not found:
        raise ValueError(
            f"{caller}: argument 'state' must be a state with hyper-parameters; got none. "
            "To keep them, wrap the transformation in tunable(...)"
        )
    return found


def _scheduled_names(part: Any) -> list[str]:
    if isinstance(part, TunableState):
        return list(part.scheduled)
    return [name for name in part.hyperparams if name in part.hyperparams_states]


def _resolve(name: str, names: list[str], driven: list[str]) -> str:
    full = resolve_address("set_hyperparams", "hyper-parameter", name, [*names, *driven])
    if full in driven:
        raise ValueError(
            f"set_hyperparams: argument 'changes' must name numbers; got '{full}', "
            "which is driven by a schedule. "
            "Replace the schedule in the expression: gradflow.replace(tx, {name: ...})"
        )
    return full


def _converted(name: str, value: Any, old: jax.Array) -> jax.Array:
    owner, _, argument = name.rpartition(".")
    factory = OWN_FACTORIES.get(owner.split(".")[-1].split("[")[0])
    if np.shape(value) == () and factory is not None and argument in factory.checked:
        factory.checked[argument].check("set_hyperparams", name, value)
    array = jnp.asarray(value)
    if not (is_inexact(array.dtype) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"set_hyperparams: argument '{name}' must be a number; got {array.dtype}")
    if array.shape not in ((), old.shape):
        raise ValueError(
            f"set_hyperparams: argument '{name}' must be a scalar or have the shape in this state, "
            f"{old.shape}; got {array.shape}"
        )
    return jnp.broadcast_to(array.astype(old.dtype), old.shape)

"""The decorators that make factories of transformations and schedules.

A factory's body returns `init` and `update`; the decorator adds what every transformation has: the
expression that made it, checks of its arguments, and schedules for every hyper-parameter. The pair itself,
and what it does when called, is in `_stage`.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, cast, overload

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checks import refuse_state
from gradflow._dtypes import is_inexact
from gradflow._errors import describe
from gradflow._expression import Expression, children, expression_of, freeze, map_values
from gradflow._function_value import FUNCTION_KINDS, FunctionValue, ScheduleValue
from gradflow._hyper import Argument, read_argument
from gradflow._stage import TREES, InitPart, Stage, UpdatePart, stage_of
from gradflow._stage import EmptyState as EmptyState
from gradflow._stage import GradientTransformation as GradientTransformation
from gradflow._stage import GradientTransformationExtraArgs as GradientTransformationExtraArgs
from gradflow._stage import OptState as OptState
from gradflow._stage import Pair as Pair
from gradflow._stage import Params as Params
from gradflow._stage import Schedule as Schedule
from gradflow._stage import ScheduledState as ScheduledState
from gradflow._stage import TransformInitFn as TransformInitFn
from gradflow._stage import TransformUpdateExtraArgsFn as TransformUpdateExtraArgsFn
from gradflow._stage import TransformUpdateFn as TransformUpdateFn
from gradflow._stage import Updates as Updates
from gradflow._stage import stages_of as stages_of
from gradflow._state import increment, zero_scalar

P = ParamSpec("P")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and getattr(value, "_fields", None) == ("init", "update")


def _adopt(value: Any) -> Any:
    """A plain pair of functions, ours or another library's, as a transformation with an expression."""
    if not _is_pair(value) or expression_of(value) is not None:
        return value
    init, update = value
    if not (callable(init) and callable(update)):
        raise TypeError(f"a transformation's init and update must be callable; got {describe(value)}")
    adopted = _PLAIN.build({"init": init, "update": update})
    stage = adopted.update.stage
    # A stranger's `params` without a default may still be optional to it.
    stage.signature = stage.signature._replace(needs_params=False)
    # A kind of pair may say that its trees are not alike.
    stage.trees = getattr(type(value), "trees", stage.trees)
    return adopted


def as_transformation(value: Any, owner: str, place: str) -> GradientTransformation:
    """`value` as a transformation; a TypeError with the likeliest cure for anything else."""
    if _is_pair(value):
        return cast(GradientTransformation, _adopt(value))
    cure = ""
    if getattr(value, "__gradflow__", None) is not None:
        cure = f" It is a factory: call it, as in {value.__name__}(...)."
    elif isinstance(value, ScheduleValue):
        cure = " A schedule goes into a stage: scale_by_learning_rate(schedule)."
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        cure = " A state goes to update, not here."
    elif isinstance(value, list | tuple):
        cure = " Pass the transformations one by one: put a * before it."
    elif isinstance(value, int | float | jax.Array | np.ndarray | np.generic):
        cure = " To multiply by a number use scale(number)."
    raise TypeError(f"{owner}: {place} must be a transformation; got {describe(value)}.{cure}")


_OWN: dict[str, "Factory"] = {}  # gradflow's own factories, by name


def own_factories() -> Mapping[str, "Factory"]:
    """All of gradflow's factories of transformations and schedules, by name."""
    # A pickle may be read before anything but this file was imported.
    importlib.import_module("gradflow._names")
    return _OWN


def own_factory(name: str) -> "Factory | None":
    """gradflow's factory of that name."""
    return _OWN.get(name) or own_factories().get(name)


def _rebuild(reference: Any, arguments: Mapping[str, Any]) -> Any:
    factory = own_factory(reference) if isinstance(reference, str) else reference.__gradflow__
    if factory is None:
        raise ValueError(f"this version of gradflow has no factory '{reference}'")
    return factory.build(arguments)


@dataclasses.dataclass(frozen=True, eq=False)
class Factory:
    """A decorated function: how to bind, check and freeze its arguments, and what it makes."""

    name: str
    body: Callable[..., Any]
    kind: str  # "transformation", "schedule" or "selector"
    reports: tuple[str, ...]
    leaves: str
    parameters: Mapping[str, inspect.Parameter]
    checked: Mapping[str, Argument]
    inner: tuple[str, ...]  # the arguments that must be transformations
    variadic: str | None
    public: list[Callable[..., Any]]  # the decorated function, known only after this record
    trees: str | None = None
    steps: str | None = "count"
    elementwise: bool = False

    @functools.cached_property
    def _positional(self) -> tuple[str, ...]:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return tuple(name for name, p in self.parameters.items() if p.kind in kinds)

    @functools.cached_property
    def _keyword(self) -> str | None:
        kind = inspect.Parameter.VAR_KEYWORD
        return next((name for name, p in self.parameters.items() if p.kind is kind), None)

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """The arguments that may be traced, swept and driven by a schedule."""
        return tuple(name for name, argument in self.checked.items() if argument.is_hyperparameter)

    def reduce(self, arguments: Mapping[str, Any]) -> Any:
        """What a pickle stores for a value: our own factories go by name, a user's by its function."""
        reference = self.name if _OWN.get(self.name) is self else self.public[0]
        return _rebuild, (reference, dict(arguments))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(self._bind(args, kwargs))

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """The value for bound arguments; raises ValueError or TypeError naming one that is wrong."""
        frozen = {}
        for name, value in arguments.items():
            frozen[name] = freeze(value, _adopt)
            if "dtype" in name.split("_") and value is not None:
                frozen[name] = _read_dtype(self.name, name, frozen[name])
            elif name in self.inner:
                frozen[name] = as_transformation(frozen[name], self.name, f"argument '{name}'")
        for name, argument in self.checked.items():
            argument.check(self.name, name, frozen[name])
        return self.build(frozen)

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, in the signature's order, defaults filled in."""
        positional, variadic = self._positional, self.variadic
        given = dict(zip(positional, args, strict=False))
        rest = args[len(positional) :]
        unknown = {k: v for k, v in kwargs.items() if k not in self.parameters or k in given}
        if (rest and variadic is None) or (unknown and self._keyword is None):
            try:
                inspect.signature(self.body).bind(*args, **kwargs)
            except TypeError as error:
                known = ", ".join(self.parameters)
                raise TypeError(f"{self.name}: {error}; its arguments are {known}") from None
        bound: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if name == variadic:
                bound[name] = rest
            elif name == self._keyword:
                bound[name] = unknown
            elif name in given:
                bound[name] = given[name]
            elif name in kwargs:
                bound[name] = kwargs[name]
            elif parameter.default is not inspect.Parameter.empty:
                bound[name] = parameter.default
            else:
                raise TypeError(f"{self.name}: missing a required argument: '{name}'")
        return bound

    def call_body(self, arguments: Mapping[str, Any]) -> Any:
        """The body's own result for bound arguments."""
        named = dict(arguments)
        keywords = named.pop(self._keyword) if self._keyword else {}
        if self.variadic is None:
            return self.body(**named, **keywords)
        before = [named.pop(name) for name in self._positional]
        rest = named.pop(self.variadic)
        return self.body(*before, *rest, **named, **keywords)

    def _floats(self, arguments: Mapping[str, Any]) -> dict[str, jax.Array]:
        """The hyper-parameters that came as integer arrays, as the numbers that they stand for."""
        given = {name: arguments[name] for name in self.hyperparameters}
        return {
            name: value.astype(np.float32)
            for name, value in given.items()
            if isinstance(value, jax.Array) and not is_inexact(value.dtype)
        }

    def build(self, arguments: Mapping[str, Any]) -> Any:
        """The value for frozen arguments."""
        expression = Expression(self, arguments)
        if self.kind in FUNCTION_KINDS:
            return FUNCTION_KINDS[self.kind](expression, self.call_body(arguments))
        stages, arguments = _label_children(arguments)
        made = self.call_body({**arguments, **self._floats(arguments)})
        leaves: str | None = self.leaves
        # A pair with methods of its own, such as MultiSteps, stays of its own kind.
        kind = type(made) if isinstance(made, GradientTransformation) else GradientTransformation
        if isinstance(made, GradientTransformation) and stage_of(made) is not None:
            stages = [cast(Stage, stage_of(made))]
            leaves = None
        elif not (isinstance(made, tuple) and len(made) == 2 and all(map(callable, made))):
            raise TypeError(
                f"{self.name}: a factory of transformations returns (init, update) or a "
                f"transformation; it returned {describe(made)}"
            )
        else:
            scheduled = {n: arguments[n] for n in self.hyperparameters if callable(arguments[n])}
            if scheduled:
                made = _follow_schedules(self, arguments, scheduled)
            if stages:
                leaves = None
        stage = Stage(
            expression, made[0], made[1], tuple(stages), self.reports, leaves, self.trees, self.elementwise
        )
        return kind(InitPart(stage), UpdatePart(stage))


def _read_dtype(owner: str, name: str, value: Any) -> np.dtype:
    """A dtype argument, given as a dtype, a scalar type or a string."""
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not is_inexact(dtype):
        raise TypeError(f"{owner}: argument '{name}' must be a floating-point dtype; got {describe(value)}")
    return np.dtype(dtype)


def _label_children(arguments: Mapping[str, Any]) -> tuple[list[Stage], Mapping[str, Any]]:
    """The transformations among the arguments, and the arguments with them under their labels."""

    named = [child.label for child in children(arguments) if isinstance(child.value, GradientTransformation)]
    if not named:
        return [], arguments
    labels = iter(named)
    stages: list[Stage] = []

    def label(value: Any) -> Any:
        if isinstance(value, FunctionValue):
            return value
        twin = cast(Stage, stage_of(value)).labelled(next(labels))
        stages.append(cast(Stage, stage_of(twin)))
        return twin

    return stages, {name: map_values(value, label) for name, value in arguments.items()}


def _follow_schedules(
    factory: Factory, arguments: Mapping[str, Any], schedules: Mapping[str, Schedule]
) -> Pair:
    """A stage whose arguments are its schedules' values at its own step count.

    A state with a field that counts steps is asked for the step; another is kept beside a counter.
    """
    once = {name for name in schedules if factory.checked[name].kind.at_init}
    _, update = factory.call_body(arguments)

    def step_of(state: OptState) -> Any:
        field = "count" if isinstance(state, ScheduledState) else factory.steps
        return getattr(state, field) if field in getattr(state, "_fields", ()) else None  # type: ignore[arg-type]

    def follow_init(params: Params) -> OptState:
        first = {name: schedule(zero_scalar(params)) for name, schedule in schedules.items()}
        init, _ = factory.call_body({**arguments, **first})
        state = init(params)
        if step_of(state) is not None or once == set(schedules):
            return state
        return ScheduledState(zero_scalar(params), state)

    @functools.wraps(update)
    def follow_update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        step = step_of(state)
        if step is None:
            if once != set(schedules):
                refuse_state("a state with a step count", state)
            return cast(tuple[Updates, OptState], update(updates, state, params, **extra))
        values = {name: schedule(step) for name, schedule in schedules.items()}
        _, now = factory.call_body({**arguments, **values})
        if not isinstance(state, ScheduledState):
            return cast(tuple[Updates, OptState], now(updates, state, params, **extra))
        updates, inner = now(updates, state.inner_state, params, **extra)
        return updates, ScheduledState(increment(state.count), inner)

    return follow_init, follow_update


def decorate(
    body: Callable[P, Any],
    kind: str,
    reports: tuple[str, ...] = (),
    leaves: str = "inexact",
    trees: str | None = None,
    steps: str | None = "count",
    elementwise: bool = False,
) -> Callable[P, Any]:
    """A factory of values of a kind, by the function that makes their working parts."""
    parameters = inspect.signature(body).parameters
    annotations = body.__annotations__
    checked = {
        name: argument
        for name in parameters
        if (argument := read_argument(annotations.get(name))) is not None
    }
    variadic = next((n for n, p in parameters.items() if p.kind is p.VAR_POSITIONAL), None)
    inner = tuple(
        name for name in parameters if name != variadic and annotations.get(name) is GradientTransformation
    )
    factory = Factory(
        body.__name__, body, kind, reports, leaves, parameters, checked, inner, variadic, [], trees, steps,
        elementwise,
    )  # fmt: skip

    @functools.wraps(body)
    def make(*args: P.args, **kwargs: P.kwargs) -> Any:
        return factory(*args, **kwargs)

    factory.public.append(make)
    make.__gradflow__ = factory  # type: ignore[attr-defined]
    if body.__module__.split(".")[0] == "gradflow":
        if body.__name__ in _OWN:
            raise ValueError(f"two factories are called {body.__name__}")
        _OWN[body.__name__] = factory
    return make


@overload
def transformation(
    body: Callable[P, Pair | GradientTransformation], /
) -> Callable[P, GradientTransformation]: ...
@overload
def transformation(
    *,
    reports: tuple[str, ...] = (),
    leaves: str = "inexact",
    trees: str | None = None,
    steps: str | None = "count",
    elementwise: bool = False,
) -> Callable[[Callable[P, Pair | GradientTransformation]], Callable[P, GradientTransformation]]: ...
def transformation(
    body: Any = None,
    /,
    *,
    reports: tuple[str, ...] = (),
    leaves: str = "inexact",
    trees: str | None = None,
    steps: str | None = "count",
    elementwise: bool = False,
) -> Any:
    """Makes a function that returns `(init, update)` a factory of transformations, which are values.

    The factory's calls print, compare, hash, pickle and can be rebuilt with other arguments. Arguments
    annotated with a kind from `gradflow.typing` (`Rate`, `Decay`, ...) are checked when given and may be
    numbers, scalar arrays, tracers or schedules, so a body must not branch in Python on their values.
    Returning a transformation, such as a `chain`, names that composition.

    Args:
      body: the factory. Its update may name the extra arguments that it takes, annotate `state` with
        its state's type, and leave `params` without a default when it needs them: all three are checked.
      reports: names that the update passes to `gradflow.report`.
      leaves: "inexact" or "real" refuses other leaves by path; "any" takes what comes.
      trees: whether updates, parameters and what comes out are "alike"; or share their "structure" alone,
        as where an axis is summed over; or "differ", and the stage checks them itself. By default alike,
        as far as the transformations among the arguments allow.
      steps: the field of the state that counts steps, for schedules; None if there is none.
      elementwise: promises that a number's update depends on what stands at its own place and on numbers
        for the whole tree alone, to which zeros add nothing. Such a stage works on the buffers of packed
        parameters; for any other they are unpacked on the way in and packed again on the way out.
    """
    if leaves not in ("inexact", "real", "any"):
        raise ValueError(f"transformation: 'leaves' must be 'inexact', 'real' or 'any'; got {leaves!r}")
    if trees not in (None, *TREES):
        raise ValueError(f"transformation: 'trees' must be one of {', '.join(TREES)}; got {trees!r}")
    if body is None:
        return functools.partial(
            decorate, kind="transformation", reports=reports, leaves=leaves, trees=trees, steps=steps,
            elementwise=elementwise,
        )  # fmt: skip
    return decorate(body, "transformation", reports, leaves, trees, steps, elementwise)


def schedule(body: Callable[P, Schedule], /) -> Callable[P, Schedule]:
    """Makes a function that returns `count -> value` a factory of schedules, which are values."""
    return decorate(body, "schedule")


def _plain(init: Any, update: Any) -> Pair:
    return init, update


_PLAIN = Factory(
    "GradientTransformation", _plain, "transformation", (), "any",
    inspect.signature(_plain).parameters, {}, (), None, public=[],
)  # fmt: skip
_PLAIN.public.append(_plain)
_plain.__gradflow__ = _PLAIN  # type: ignore[attr-defined]

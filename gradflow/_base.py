"""GradientTransformation, and the decorators that make factories of transformations and schedules.

Nothing here computes an update. A factory's body returns `init` and `update`; the decorators add what
every transformation has: the expression that made it, names for errors and reports, checks of
arguments, trees and states, one rule for dtypes, and schedules for every hyper-parameter.
"""

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, cast, overload

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checks import (
    as_arrays,
    check_like,
    conform,
    promote_to_params,
    refuse_leaves,
    refuse_near_misses,
    refuse_state,
)
from gradflow._dtypes import is_inexact
from gradflow._errors import describe
from gradflow._expression import (
    Expression,
    children,
    expression_of,
    freeze,
    map_values,
)
from gradflow._frames import entered, frames, stage_name
from gradflow._hyper import Argument, read_argument
from gradflow._state import increment, zero_scalar

Params = Any
Updates = Any
OptState = Any
Schedule = Callable[[Any], Any]
P = ParamSpec("P")
R = TypeVar("R")


class TransformInitFn(Protocol):
    """`init(params) -> state`."""

    def __call__(self, params: Params) -> OptState: ...


class TransformUpdateFn(Protocol):
    """`update(updates, state, params=None, **extra) -> (updates, state)`."""

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]: ...


TransformUpdateExtraArgsFn = TransformUpdateFn


class EmptyState(NamedTuple):
    """The state of a stage that remembers nothing."""


class ScheduledState(NamedTuple):
    """A step counter beside the state of a stage that has none, for its scheduled arguments."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    inner_state: OptState


class GradientTransformation(NamedTuple):
    """A pair of pure functions over pytrees, and the expression that made it.

    - `init(params) -> state`; with `jax.ShapeDtypeStruct` leaves the state is abstract too.
    - `update(updates, state, params=None, **extra) -> (updates, state)`.

    Made by a factory, a transformation prints as the call that makes it, equals and hashes like itself
    when it is built again, pickles and copies. An argument that is a jax array is compared by identity, so
    such a transformation equals only itself, and a pickled copy is another value.
    """

    init: TransformInitFn
    update: TransformUpdateFn

    @property
    def expression(self) -> Expression | None:
        """The call that made this transformation; None for a pair assembled by hand."""
        stage = _stage_of(self)
        return None if stage is None else stage.expression

    def __eq__(self, other: object) -> bool:
        mine = self.expression
        if mine is None or not isinstance(other, GradientTransformation):
            return tuple.__eq__(self, other) if isinstance(other, tuple) else NotImplemented
        return mine == other.expression

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:
        expression = self.expression
        return tuple.__hash__(self) if expression is None else hash(expression)

    def __repr__(self) -> str:
        expression = self.expression
        return repr(expression if expression is not None else _adopt(self).expression)

    def __copy__(self) -> "GradientTransformation":
        return self

    def __deepcopy__(self, memo: Any) -> "GradientTransformation":
        return self

    def __reduce__(self) -> Any:
        expression = self.expression
        if expression is None:
            return GradientTransformation, (self.init, self.update)
        return _rebuild, (expression.maker.reference(), dict(expression.arguments))


GradientTransformationExtraArgs = GradientTransformation
Pair = tuple[Callable[..., Any], Callable[..., Any]]


class _Signature(NamedTuple):
    """What a body's update takes beyond updates, state and params."""

    extra: frozenset[str]
    required: tuple[str, ...]
    passes_all: bool
    needs_params: bool
    state_type: type | None


def _read_update(update: Callable[..., Any]) -> _Signature:
    state_type = getattr(update, "__annotations__", {}).get("state")
    if not (isinstance(state_type, type) and hasattr(state_type, "_fields")):
        state_type = None
    if isinstance(update, _Update):
        return _Signature(update.stage.takes, (), True, False, None)
    function = inspect.unwrap(update)
    if inspect.isfunction(function):
        code = function.__code__
        positional = code.co_varnames[3 : code.co_argcount]
        keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        with_default = len(function.__defaults__ or ())
        kwdefaults = function.__kwdefaults__ or {}
        return _Signature(
            frozenset((*positional, *keyword)),
            tuple(name for name in keyword if name not in kwdefaults),
            bool(code.co_flags & inspect.CO_VARKEYWORDS),
            code.co_argcount >= 3 and code.co_argcount - with_default >= 3,
            state_type,
        )
    try:
        parameters = list(inspect.signature(update).parameters.values())
    except (TypeError, ValueError):
        return _Signature(frozenset(), (), False, False, state_type)
    names = [p.name for p in parameters[3:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    passes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return _Signature(frozenset(names), (), passes_all, False, state_type)


class _Stage:
    """All that one transformation knows of itself; shared by its init and its update."""

    __slots__ = (
        "children", "expression", "init", "label", "leaves", "own_reports", "reports", "signature",
        "takes", "update",
    )  # fmt: skip

    def __init__(
        self,
        expression: Expression,
        init: Callable[..., Any],
        update: Callable[..., Any],
        children: tuple["_Stage", ...],
        reports: tuple[str, ...],
        leaves: str | None,
    ) -> None:
        self.expression = expression
        self.init = init
        self.update = update
        self.children = children
        self.takes: frozenset[str]
        self.reports: tuple[str, ...]
        self.label: str | None = None
        self.signature = _read_update(update)
        # `leaves` says which leaves a stage does arithmetic on; None for one that leaves it to others.
        self.leaves = leaves
        self.own_reports = frozenset(reports)
        self.takes = self.signature.extra.union(*(child.takes for child in children))
        if isinstance(update, _Update):
            self.reports = (*reports, *update.stage.reports)
        else:
            inner = (f"{c.label}.{name}" if c.label else name for c in children for name in c.reports)
            self.reports = (*reports, *inner)

    def labelled(self, label: str) -> GradientTransformation:
        """The same transformation, under the label that a container gives it."""
        twin = _Stage.__new__(_Stage)
        for name in _Stage.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.label = label
        return GradientTransformation(_Init(twin), _Update(twin))

    def entered(self) -> Any:
        """Names this stage in errors and reports while it runs."""
        return entered(self.expression.name, self.label, self.own_reports)


class _Part:
    """The init or the update of a stage: a function that compares and pickles by its expression."""

    __slots__ = ("__weakref__", "stage")

    def __init__(self, stage: _Stage) -> None:
        self.stage = stage

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.stage.expression == other.stage.expression

    def __hash__(self) -> int:
        return hash(self.stage.expression)

    def __copy__(self) -> "_Part":
        return self

    def __deepcopy__(self, memo: Any) -> "_Part":
        return self

    def __reduce__(self) -> Any:
        whole = GradientTransformation(_Init(self.stage), _Update(self.stage))
        return getattr, (whole, "init" if isinstance(self, _Init) else "update")

    def __repr__(self) -> str:
        return f"{self.stage.expression!r}.{'init' if isinstance(self, _Init) else 'update'}"


class _Init(_Part):
    __slots__ = ()

    def __call__(self, params: Params) -> OptState:
        stage = self.stage
        outermost = not frames.stack
        with stage.entered():
            if outermost:
                if any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params)):
                    return jax.eval_shape(stage.init, params)
                params = as_arrays(params)
            if stage.leaves not in (None, "any"):
                refuse_leaves(stage.leaves, "parameters", params)
            return stage.init(params)


class _Update(_Part):
    __slots__ = ()

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        stage = self.stage
        outermost = not frames.stack
        with stage.entered():
            if outermost:
                refuse_near_misses(extra, stage.takes)
                updates = as_arrays(updates)
                if params is not None:
                    params = as_arrays(params)
                    check_like("updates", updates, "params", params)
                    updates = promote_to_params(updates, params)
            signature = stage.signature
            _check_call(signature, state, params, extra)
            if not signature.passes_all:
                extra = {name: extra[name] for name in signature.extra if name in extra}
            if stage.leaves is None:
                return cast(tuple[Updates, OptState], stage.update(updates, state, params, **extra))
            if stage.leaves != "any":
                refuse_leaves(stage.leaves, "updates", updates)
            new_updates, new_state = stage.update(updates, state, params, **extra)
            return conform(new_updates, updates), new_state


def _check_call(
    signature: _Signature, state: OptState, params: Params | None, extra: Mapping[str, Any]
) -> None:
    if signature.needs_params and params is None:
        raise ValueError(
            f"{stage_name()}: this stage needs the parameters: call update(updates, state, params)"
        )
    for name in signature.required:
        if name not in extra:
            raise TypeError(
                f"{stage_name()}: this stage needs the extra argument '{name}': call "
                f"update(updates, state, params, {name}=...)"
            )
    if signature.state_type is not None:
        inner = state.inner_state if isinstance(state, ScheduledState) else state
        if not isinstance(inner, signature.state_type):
            refuse_state(f"a {signature.state_type.__name__}", state)


def _stage_of(tx: Any) -> _Stage | None:
    init, update = tx
    if isinstance(init, _Init) and isinstance(update, _Update) and init.stage is update.stage:
        return init.stage
    return None


def stages_of(tx: GradientTransformation) -> Iterator[_Stage]:
    """A transformation's own stage, then those of all the transformations that it calls, in order."""
    stage = _stage_of(_adopt(tx))
    waiting = [] if stage is None else [stage]
    while waiting:
        stage = waiting.pop(0)
        yield stage
        waiting = [*stage.children, *waiting]


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and getattr(value, "_fields", None) == ("init", "update")


def _adopt(value: Any) -> Any:
    """A plain pair of functions, ours or another library's, as a transformation with an expression."""
    if not _is_pair(value) or expression_of(value) is not None:
        return value
    init, update = value
    if not (callable(init) and callable(update)):
        raise TypeError(f"a transformation's init and update must be callable; got {describe(value)}")
    return _PLAIN.build({"init": init, "update": update})


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


class ScheduleValue:
    """A function from a step to a value that prints, compares and pickles as the call that made it."""

    __slots__ = ("__weakref__", "_function", "expression")

    def __init__(self, expression: Expression, function: Schedule) -> None:
        self.expression = expression
        self._function = function

    def __call__(self, count: Any) -> jax.Array:
        return cast(jax.Array, self._function(count))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ScheduleValue) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __repr__(self) -> str:
        return repr(self.expression)

    def __copy__(self) -> "ScheduleValue":
        return self

    def __deepcopy__(self, memo: Any) -> "ScheduleValue":
        return self

    def __reduce__(self) -> Any:
        return _rebuild, (self.expression.maker.reference(), dict(self.expression.arguments))


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
    kind: str  # "transformation" or "schedule"
    reports: tuple[str, ...]
    leaves: str
    parameters: Mapping[str, inspect.Parameter]
    checked: Mapping[str, Argument]
    inner: tuple[str, ...]  # the arguments that must be transformations
    variadic: str | None
    public: list[Callable[..., Any]]  # the decorated function, known only after this record

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

    def reference(self) -> Any:
        """What a pickle stores for this factory: our own go by name, a user's by its function."""
        return self.name if _OWN.get(self.name) is self else self.public[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.make(self._bind(args, kwargs))

    def make(self, arguments: Mapping[str, Any]) -> Any:
        """The value for bound arguments; raises ValueError or TypeError naming one that is wrong."""
        frozen = {}
        for name, value in arguments.items():
            frozen[name] = freeze(value, _adopt)
            if name.endswith("dtype") and value is not None:
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
        if self.kind == "schedule":
            return ScheduleValue(expression, self.call_body(arguments))
        stages, arguments = _label_children(arguments)
        made = self.call_body({**arguments, **self._floats(arguments)})
        leaves: str | None = self.leaves
        # A pair with methods of its own, such as MultiSteps, stays of its own kind.
        kind = type(made) if isinstance(made, GradientTransformation) else GradientTransformation
        if isinstance(made, GradientTransformation) and _stage_of(made) is not None:
            stages = [cast(_Stage, _stage_of(made))]
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
        stage = _Stage(expression, made[0], made[1], tuple(stages), self.reports, leaves)
        return kind(_Init(stage), _Update(stage))


def _read_dtype(owner: str, name: str, value: Any) -> np.dtype:
    """A dtype argument, given as a dtype, a scalar type or a string."""
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not is_inexact(dtype):
        raise TypeError(f"{owner}: argument '{name}' must be a floating-point dtype; got {describe(value)}")
    return np.dtype(dtype)


def _label_children(arguments: Mapping[str, Any]) -> tuple[list[_Stage], Mapping[str, Any]]:
    """The transformations among the arguments, and the arguments with them under their labels."""

    named = [child.label for child in children(arguments) if isinstance(child.value, GradientTransformation)]
    if not named:
        return [], arguments
    labels = iter(named)
    stages: list[_Stage] = []

    def label(value: Any) -> Any:
        if isinstance(value, ScheduleValue):
            return value
        twin = cast(_Stage, _stage_of(value)).labelled(next(labels))
        stages.append(cast(_Stage, _stage_of(twin)))
        return twin

    return stages, {name: map_values(value, label) for name, value in arguments.items()}


def _follow_schedules(
    factory: Factory, arguments: Mapping[str, Any], schedules: Mapping[str, Schedule]
) -> Pair:
    """A stage whose arguments are its schedules' values at its own step count.

    A state with a field `count` is asked for the step; another is kept beside a counter.
    """
    once = {name for name in schedules if factory.checked[name].kind.at_init}
    _, update = factory.call_body(arguments)

    def follow_init(params: Params) -> OptState:
        first = {name: schedule(zero_scalar(params)) for name, schedule in schedules.items()}
        init, _ = factory.call_body({**arguments, **first})
        state = init(params)
        if "count" in getattr(state, "_fields", ()) or once == set(schedules):
            return state
        return ScheduledState(zero_scalar(params), state)

    @functools.wraps(update)
    def follow_update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        if "count" not in getattr(state, "_fields", ()):
            if once != set(schedules):
                refuse_state("a state with a step count", state)
            return cast(tuple[Updates, OptState], update(updates, state, params, **extra))
        values = {name: schedule(state.count) for name, schedule in schedules.items()}
        _, now = factory.call_body({**arguments, **values})
        if not isinstance(state, ScheduledState):
            return cast(tuple[Updates, OptState], now(updates, state, params, **extra))
        updates, inner = now(updates, state.inner_state, params, **extra)
        return updates, ScheduledState(increment(state.count), inner)

    return follow_init, follow_update


def _decorate(
    body: Callable[P, Any], kind: str, reports: tuple[str, ...] = (), leaves: str = "inexact"
) -> Callable[P, Any]:
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
        body.__name__, body, kind, reports, leaves, parameters, checked, inner, variadic, public=[]
    )

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
    *, reports: tuple[str, ...] = (), leaves: str = "inexact"
) -> Callable[[Callable[P, Pair | GradientTransformation]], Callable[P, GradientTransformation]]: ...
def transformation(body: Any = None, /, *, reports: tuple[str, ...] = (), leaves: str = "inexact") -> Any:
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
    """
    if leaves not in ("inexact", "real", "any"):
        raise ValueError(f"transformation: 'leaves' must be 'inexact', 'real' or 'any'; got {leaves!r}")
    if body is None:
        return functools.partial(_decorate, kind="transformation", reports=reports, leaves=leaves)
    return _decorate(body, "transformation", reports, leaves)


def schedule(body: Callable[P, Schedule], /) -> Callable[P, Schedule]:
    """Makes a function that returns `count -> value` a factory of schedules, which are values."""
    return _decorate(body, "schedule")


def _plain(init: Any, update: Any) -> Pair:
    return init, update


_PLAIN = Factory(
    "GradientTransformation", _plain, "transformation", (), "any",
    inspect.signature(_plain).parameters, {}, (), None, public=[],
)  # fmt: skip
_PLAIN.public.append(_plain)
_plain.__gradflow__ = _PLAIN  # type: ignore[attr-defined]

"""GradientTransformation, and what a stage does around the two functions of its factory's body.

Nothing here computes an update: a stage names itself for errors and reports, checks what it is called
with, and sees to it that its updates have the right shapes and dtypes.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, cast

import jax

from gradflow import _cures, _whole
from gradflow._checks import (
    as_arrays,
    check_like,
    conform,
    promote_to_params,
    refuse_leaves,
    refuse_near_misses,
    refuse_state,
)
from gradflow._display import outline, preformatted
from gradflow._errors import with_article
from gradflow._expression import Expression, show
from gradflow._frames import entered, frames, stage_name
from gradflow._packed import init_on_trees, is_packed, on_trees, refuse_packed_parts

Params = Any
Updates = Any
OptState = Any
Schedule = Callable[[Any], Any]


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
        stage = stage_of(self)
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
        if expression is None:
            return f"GradientTransformation(init={show(self.init)}, update={show(self.update)})"
        return repr(expression)

    def _repr_html_(self) -> str:
        return preformatted(repr(self) if self.expression is None else outline(self))

    def __copy__(self) -> "GradientTransformation":
        return self

    def __deepcopy__(self, memo: Any) -> "GradientTransformation":
        return self

    def __reduce__(self) -> Any:
        expression = self.expression
        if expression is None:
            return GradientTransformation, (self.init, self.update)
        return expression.maker.reduce(expression.arguments)


GradientTransformationExtraArgs = GradientTransformation
Pair = tuple[Callable[..., Any], Callable[..., Any]]


class Signature(NamedTuple):
    """What a body's update takes beyond updates, state and params."""

    extra: frozenset[str]
    required: tuple[str, ...]
    passes_all: bool
    needs_params: bool
    state_type: type | None


def _read_update(update: Callable[..., Any]) -> Signature:
    state_type = getattr(update, "__annotations__", {}).get("state")
    if not (isinstance(state_type, type) and hasattr(state_type, "_fields")):
        state_type = None
    if isinstance(update, UpdatePart):
        return Signature(update.stage.takes, (), True, False, None)
    function = inspect.unwrap(update)
    if inspect.isfunction(function):
        code = function.__code__
        positional = code.co_varnames[3 : code.co_argcount]
        keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        with_default = len(function.__defaults__ or ())
        kwdefaults = function.__kwdefaults__ or {}
        return Signature(
            frozenset((*positional, *keyword)),
            tuple(name for name in keyword if name not in kwdefaults),
            bool(code.co_flags & inspect.CO_VARKEYWORDS),
            code.co_argcount >= 3 and code.co_argcount - with_default >= 3,
            state_type,
        )
    try:
        parameters = list(inspect.signature(update).parameters.values())
    except (TypeError, ValueError):
        return Signature(frozenset(), (), False, False, state_type)
    names = [p.name for p in parameters[3:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    passes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return Signature(frozenset(names), (), passes_all, False, state_type)


# How far updates, parameters and what comes out must be alike, from the strictest.
TREES = ("alike", "structure", "differ")


class Stage:
    """All that one transformation knows of itself; shared by its init and its update."""

    __slots__ = (
        "children", "elementwise", "expression", "init", "label", "leaves", "own_reports", "reports",
        "signature", "takes", "trees", "update", "whole",
    )  # fmt: skip

    def __init__(
        self,
        expression: Expression,
        init: Callable[..., Any],
        update: Callable[..., Any],
        children: tuple["Stage", ...],
        reports: tuple[str, ...],
        leaves: str | None,
        trees: str | None,
        elementwise: bool,
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
        # A composition leaves it to the stages in it whether they want packed trees as trees.
        self.elementwise = elementwise or isinstance(update, UpdatePart)
        # A stage that says nothing of its trees is checked only as far as those inside it allow.
        self.trees: str = trees or max((child.trees for child in children), key=TREES.index, default=TREES[0])
        # How a loop without jit calls it; read when first asked, since most values are never called.
        self.whole: Any = True
        self.own_reports = frozenset(reports)
        self.takes = self.signature.extra.union(*(child.takes for child in children))
        if isinstance(update, UpdatePart):
            self.reports = (*reports, *update.stage.reports)
        else:
            inner = (f"{c.label}.{name}" if c.label else name for c in children for name in c.reports)
            self.reports = (*reports, *inner)

    def labelled(self, label: str) -> GradientTransformation:
        """The same transformation, under the label that a container gives it."""
        twin = Stage.__new__(Stage)
        for name in Stage.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.label = label
        return GradientTransformation(InitPart(twin), UpdatePart(twin))

    def entered(self) -> Any:
        """Names this stage in errors and reports while it runs."""
        return entered(self.expression.name, self.label, self.own_reports)


class Part:
    """The init or the update of a stage: a function that compares and pickles by its expression."""

    __slots__ = ("__weakref__", "stage")

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.stage.expression == other.stage.expression

    def __hash__(self) -> int:
        return hash(self.stage.expression)

    def __copy__(self) -> "Part":
        return self

    def __deepcopy__(self, memo: Any) -> "Part":
        return self

    def __reduce__(self) -> Any:
        whole = GradientTransformation(InitPart(self.stage), UpdatePart(self.stage))
        return getattr, (whole, "init" if isinstance(self, InitPart) else "update")

    def __repr__(self) -> str:
        return f"{self.stage.expression!r}.{'init' if isinstance(self, InitPart) else 'update'}"


class InitPart(Part):
    __slots__ = ()

    def __call__(self, params: Params) -> OptState:
        stage = self.stage
        outermost = not frames.stack
        with stage.entered():
            abstract = any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params))
            if outermost and stage.trees != "differ":
                refuse_packed_parts(stage_name(), params)
            if outermost and not abstract:
                params = as_arrays(params)
            if stage.leaves not in (None, "any"):
                refuse_leaves(stage.leaves, "parameters", params)
            init = stage.init
            if is_packed(params) and not stage.elementwise:
                init = functools.partial(init_on_trees, init)
            state = jax.eval_shape(init, params) if abstract else init(params)
            if frames.inits is not None:
                frames.inits.append((stage_name(), stage, params, state))
            return state


class UpdatePart(Part):
    __slots__ = ()

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        stage = self.stage
        if stage.whole is True:
            stage.whole = _whole.read(stage.expression)
        if stage.whole is None:
            return self._call(updates, state, params, **extra)
        return _whole.call(stage.whole, self._call, updates, state, params, extra)

    def _call(
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
                    if stage.trees != "differ":
                        shapes = stage.trees == "alike"
                        cure = functools.partial(_cures.of_order, updates, state, params)
                        check_like("updates", updates, "params", params, shapes=shapes, cure=cure)
                        updates = promote_to_params(updates, params)
            signature = stage.signature
            _check_call(signature, state, params, extra)
            if not signature.passes_all:
                extra = {name: extra[name] for name in signature.extra if name in extra}
            update = on_trees(stage.update) if is_packed(updates) and not stage.elementwise else stage.update
            if stage.leaves is None:
                return cast(tuple[Updates, OptState], update(updates, state, params, **extra))
            if stage.leaves != "any":
                refuse_leaves(stage.leaves, "updates", updates)
            new_updates, new_state = update(updates, state, params, **extra)
            if stage.trees != "alike":
                return new_updates, new_state
            return conform(new_updates, updates), new_state


def _check_call(
    signature: Signature, state: OptState, params: Params | None, extra: Mapping[str, Any]
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
            refuse_state(with_article(signature.state_type.__name__), state)


def stage_of(tx: Any) -> Stage | None:
    init, update = tx
    if isinstance(init, InitPart) and isinstance(update, UpdatePart) and init.stage is update.stage:
        return init.stage
    return None


def stages_of(tx: GradientTransformation) -> Iterator[Stage]:
    """A transformation's own stage, then those of all the transformations that it calls, in order."""
    stage = stage_of(tx)
    waiting = [] if stage is None else [stage]
    while waiting:
        stage = waiting.pop(0)
        yield stage
        waiting = [*stage.children, *waiting]

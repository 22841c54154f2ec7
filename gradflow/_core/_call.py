"""A call of a transformation's init or update: check the inputs, run the body, match the outputs."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gradflow._calls import _hints
from gradflow._calls._checks import (
    WrongStateError,
    as_arrays,
    check_leaves,
    check_like,
    complex_leaf_error,
    is_like,
    is_trainable,
    match_outputs,
    match_params,
    other_leaf_error,
    refuse_state,
    with_named_tuples,
    without_aliases,
    without_untrained,
)
from gradflow._calls._context import context, entered, stage_name
from gradflow._calls._extra_arguments import check_extra_names
from gradflow._calls._misplaced import check_numbers_of_devices, refuse_misplaced
from gradflow._calls._other_leaves import refuse_other_leaves, refuse_unlike_state
from gradflow._calls._scalars import with_scalars_together
from gradflow._calls._symbolic import refuse_symbolic_sizes
from gradflow._checked import ARRAYS
from gradflow._core._eager import concrete_leaves
from gradflow._core._joined_sums import with_joined_sums
from gradflow._core._signature import Signature
from gradflow._core._stage import Part, Stage
from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs
from gradflow._errors import with_article
from gradflow._tracebacks import shorten
from gradflow._types import EmptyState, OptState, Params, ScheduledState, Updates
from gradflow.packed._pack import check_no_packed_parts, is_packed
from gradflow.packed._unpacked_calls import call_unpacked, init_unpacked
from gradflow.tree._leaves import without_float0


def _clearer_error(
    name: str, error: Exception, arguments: Mapping[str, Any], trained: tuple[str, ...]
) -> Exception | None:
    """The error that names the argument and the leaf where jax or Python did not; else None.

    It is returned, so that its traceback has one frame of gradflow. Every leaf of the arguments in `trained`
    should be an array.
    """
    own = {argument: arguments[argument] for argument in trained}
    try:
        refuse_symbolic_sizes(name, own, error)
        if not context.stack:
            refuse_misplaced(name, arguments, error)
            refuse_other_leaves(name, own, error)
    except Exception as clearer:
        return clearer.with_traceback(None)
    return None


class InitPart(Part):
    """The init of a stage."""

    __slots__ = ()
    word = "init"

    def __call__(self, params: Params) -> OptState:
        try:
            return self.run(params)
        except Exception as error:
            clearer = _clearer_error(self.stage.expression.name, error, {"params": params}, ("params",))
            shorten(error)
            if clearer is None:
                raise
            raise clearer from clearer.__cause__

    def run(self, params: Params) -> OptState:
        """Checks the parameters and runs the body's init."""
        stage = self.stage
        is_outermost = not context.stack
        with entered(stage.expression.name, stage.label, stage.own_reports):
            if is_outermost:
                check_numbers_of_devices({"params": params})
                ARRAYS.check_tree(stage_name(), "params", params)
            is_abstract = any(isinstance(p, jax.ShapeDtypeStruct) for p in jax.tree.leaves(params))
            if is_outermost and stage.trees != "differ":
                check_no_packed_parts(stage_name(), params)
            if is_outermost and not is_abstract:
                params = as_arrays(params)
            init = stage.init
            if is_packed(params) and not stage.packable:
                init = functools.partial(init_unpacked, init)
            error = None
            if is_outermost:
                context.wrong_leaves = []
            if stage.leaves not in (None, "any"):
                complex_error = complex_leaf_error(stage.leaves, "parameters", params)
                if complex_error is not None:
                    raise complex_error
                error = other_leaf_error("parameters", params)
            try:
                state = jax.eval_shape(init, params) if is_abstract else init(params)
            except Exception as raised:
                pending, context.wrong_leaves = context.wrong_leaves, []
                raise (pending[0] if pending else error or raised) from None
            _allow_or_raise(error, init, params, state, is_outermost)
            if context.inits is not None:
                context.inits.append((stage_name(), stage, params, state))
            return state

    def __reduce__(self) -> Any:
        return getattr, (_transformation(self.stage), "init")

    def __repr__(self) -> str:
        return f"{self.stage.expression!r}.init"


class UpdatePart(Part):
    """The update of a stage."""

    __slots__ = ()
    word = "update"

    def __call__(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        # While a collector is active, stages are called one by one, so that their reports are recorded.
        # Inside a compiled update, which jax runs op by op to find a NaN, stages run as they are written.
        as_written = context.collectors or context.in_program
        operands = None if as_written else concrete_leaves(updates, state, params, extra)
        compiled = None if operands is None else self.stage.compiled
        try:
            if operands is None or compiled is None:
                return self.run(updates, state, params, **extra)
            return compiled.run(self.run, operands, updates, state, params, extra)
        except Exception as error:
            given = {"params": params, "updates": updates, "state": state, **extra}
            clearer = _clearer_error(self.stage.expression.name, error, given, ("updates", "state"))
            clearer = clearer or self._state_error(error, updates, state, params)
            if clearer is not None:
                shorten(error)
                raise clearer from clearer.__cause__
            may_lack_names = isinstance(error, WrongStateError) and not context.stack
            named = self._named(state, updates, params) if may_lack_names else None
            if named is None:
                shorten(error)
                raise
        return self.run(updates, named, params, **extra)

    def _state_error(
        self, error: Exception, updates: Updates, state: OptState, params: Params | None
    ) -> Exception | None:
        """The error that names the array of the state which init would not have made, if there is one."""
        if context.stack:
            return None
        known = without_float0(updates if params is None else params)
        try:
            init = functools.partial(jax.eval_shape, self.stage.init, known)
            refuse_unlike_state(self.stage.expression.name, state, init, error)
        except WrongStateError as clearer:
            return clearer.with_traceback(None)
        except Exception:  # the error of the update is the clearer one
            return None
        return None

    def _named(self, state: OptState, updates: Updates, params: Params | None) -> OptState | None:
        """The state with the containers that init makes, if it came back with others; else None."""
        known = updates if params is None else params
        try:
            template = jax.eval_shape(self.stage.init, without_float0(known))
            return with_named_tuples(state, template, cast=params is not None)
        except Exception:  # the error about the state is the clearer one
            return None

    def run(
        self, updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        """Runs the update without the compiled program; its operands may be traced or concrete."""
        stage = self.stage
        is_outermost = not context.stack
        with entered(stage.expression.name, stage.label, stage.own_reports):
            if is_outermost:
                check_numbers_of_devices({"params": params, "updates": updates, "state": state, **extra})
                state = as_arrays(state)
                updates, params = _check_inputs(stage, updates, state, params, extra)
            extra = _check_arguments(stage.signature, state, params, extra)
            if stage.leaves not in (None, "any"):
                check_leaves(stage.leaves, "updates", updates)
            update = stage.update
            if is_packed(updates) and not stage.packable:
                update = call_unpacked(update)
            if is_outermost:
                update = with_joined_sums(with_scalars_together(update, stage.joins_first))
            new_updates, new_state = update(updates, state, params, **extra)
            if stage.leaves is not None and stage.trees == "alike":
                new_updates = match_outputs(new_updates, updates)
            if is_outermost:
                new_state = without_aliases(new_state, params)
            return new_updates, new_state

    def __reduce__(self) -> Any:
        return getattr, (_transformation(self.stage), "update")

    def __repr__(self) -> str:
        return f"{self.stage.expression!r}.update"


# The name in Python's own error for a call with too few arguments.
InitPart.__call__.__qualname__, UpdatePart.__call__.__qualname__ = "init", "update"


def _allow_or_raise(
    error: TypeError | None,
    init: Callable[[Params], OptState],
    params: Params,
    state: OptState,
    is_outermost: bool,
) -> None:
    """Raises the error for a wrong leaf, unless the state is the same without such leaves.

    A stage that keeps nothing of them does no arithmetic on them in its init: any leaf may pass.
    """
    if error is None and not (is_outermost and context.wrong_leaves):
        return
    if _keeps_untrained(init, params, state):
        pending, context.wrong_leaves = context.wrong_leaves, []
        raise error or other_leaf_error("parameters", params) or pending[0]
    if error is not None:
        context.wrong_leaves.append(error)
    if is_outermost:
        context.wrong_leaves = []


def _keeps_untrained(init: Callable[[Params], OptState], params: Params, state: OptState) -> bool:
    """Whether a state has more leaves, or others, than that of the floating-point parameters alone."""
    trained = jax.tree.map(lambda p: p if is_trainable(p) else None, params)
    records, context.inits = context.inits, None
    try:
        alone = jax.eval_shape(init, trained)
    except Exception:
        return True
    finally:
        context.inits = records
    return _types(alone) != _types(state)


def _types(state: OptState) -> list[Any]:
    return [(getattr(x, "shape", None), getattr(x, "dtype", None)) for x in jax.tree.leaves(state)]


def _transformation(stage: Stage) -> GradientTransformation:
    return GradientTransformationExtraArgs(InitPart(stage), UpdatePart(stage))


def _check_inputs(
    stage: Stage, updates: Updates, state: OptState, params: Params | None, extra: Mapping[str, Any]
) -> tuple[Updates, Params | None]:
    """The updates and parameters of the outermost call as arrays; updates in the promoted dtype."""
    if extra:
        check_extra_names(extra, stage.takes)
    updates = without_float0(as_arrays(updates))
    if params is None:
        ARRAYS.check_tree(stage_name(), "updates", updates)
        return updates, None
    if stage.trees != "differ":
        hint = functools.partial(_hints.swapped_arguments, updates, state, params)
        check_like("updates", updates, "params", params, shapes=stage.trees == "alike", hint=hint)
    elif not is_like(updates, params):
        return updates, as_arrays(params)
    params = as_arrays(without_untrained(params, updates))
    return match_params(updates, params), params


def _check_arguments(
    signature: Signature, state: OptState, params: Params | None, extra: dict[str, Any]
) -> dict[str, Any]:
    """Checks params, extra arguments and state; returns the extra arguments that the body takes."""
    if signature.needs_params and params is None:
        raise ValueError(
            f"{stage_name()}: this stage needs the parameters: call update(updates, state, params)"
        )
    for name in signature.required:
        if name not in extra:
            raise TypeError(
                f"{stage_name()}: this stage needs the extra argument '{name}': call "
                f"update(updates, state, params, {name}=...)"
                f"{_hints.missing_extra_argument(name)}"
            )
    # A stage without a state hands back whatever else it is given, as third-party code expects.
    if signature.state_type is not None and signature.state_type is not EmptyState:
        inner = state.inner_state if isinstance(state, ScheduledState) else state
        is_empty = signature.may_be_empty and isinstance(inner, EmptyState)
        if not is_empty and not isinstance(inner, signature.state_type):
            refuse_state(with_article(signature.state_type.__name__), state)
    elif isinstance(state, GradientTransformation):
        refuse_state("a state", state)
    if signature.passes_all or not extra:
        return extra
    return {name: extra[name] for name in signature.extra if name in extra}

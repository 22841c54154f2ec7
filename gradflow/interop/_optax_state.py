"""Conversion of Optax's states, to continue a run in gradflow."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, Number, checked
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation, stages_of
from gradflow._dtypes import is_complex, is_inexact
from gradflow._errors import describe
from gradflow._expressions._factory import Factory
from gradflow._rules._math import one_minus_power
from gradflow._rules._state import replicate_like
from gradflow._types import OptState, Params, ScheduledState
from gradflow.interop._state_traversal import (
    OWN_TIME,
    below,
    entries,
    is_leaf,
    only_leaf,
    remembers,
    row_of,
    step_count_of,
)
from gradflow.tree._paths import children, segment, show


@checked(params=ARRAYS, count=Number(0, whole=True) | None)
def from_optax_state(
    tx: GradientTransformation, state: Any, params: Params, *, count: int | jax.Array | None = None
) -> OptState:
    """Converts Optax's state to the state of `tx`, to continue a run.

        tx = gradflow.adamw(schedule)
        state = from_optax_state(tx, state, params)   # the state of optax.adamw(schedule)

    All arrays are copied, in the dtypes of `tx.init(params)`. Optax's own types are not needed: dicts and
    lists, to which checkpoints are restored, are read by field names and positions. A step count that Optax
    does not keep, as for a constant learning rate, is taken from other parts of the state.

    Args:
      tx: gradflow's transformation, made by the same call as Optax's.
      state: a state that Optax's `init` or `update` returned.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      count: the number of steps taken, for a state without a step count.

    Raises ValueError naming the path in the state that does not match, and for schedules without a count.
    """
    tx = as_transformation(tx, "from_optax_state", "argument 'tx'")
    ours = jax.eval_shape(tx.init, params)
    return _Reader(tx, params, count).read("", ours, state, step_count_of(ours, state))


class _Reader:
    """Reads Optax's state into gradflow's, walking both together by field names."""

    def __init__(self, tx: GradientTransformation, params: Params, count: Any) -> None:
        self.params = params
        self.count = count
        self.expressions = [stage.expression for stage in stages_of(tx)]
        self.scheduled = any(
            callable(expression.arguments.get(name))
            for expression in self.expressions
            for name in cast(Factory, expression.maker).hyperparameters
        )

    def read(self, path: str, ours: Any, theirs: Any, clock: Any) -> Any:
        if is_leaf(ours):
            return self.leaf(path, ours, theirs)
        if not jax.tree.leaves(ours):
            if _holds_something(theirs):
                raise _mismatch(path, f"must be empty; got {_summary(theirs)}")
            return ours
        if isinstance(ours, ScheduledState) and type(theirs).__name__ != "ScheduledState":
            inner = self.read(below(path, "inner_state"), ours.inner_state, theirs, clock)
            return ScheduledState(self.steps(path, ours.count, clock), inner)
        if not is_leaf(theirs) and not jax.tree.leaves(theirs):
            return self.filled(path, ours, clock)
        mine, other = row_of(ours), row_of(theirs)
        if (mine is None) != (other is None) or len(mine or [ours]) != len(other or [theirs]):
            return self.row(path, ours, mine or [ours], other or [theirs], clock)
        self.check_class(path, ours, theirs)
        given = entries(theirs)
        pairs, structure = children(ours)
        names = [segment(key) for key, _ in pairs]
        missing = [name for name in names if name not in given]
        left_over = [name for name in given if name not in names and _holds_something(given[name])]
        if missing or left_over:
            raise _mismatch(path, f"must have {_listed(names)}; got {_listed([*given])}")
        parts = []
        for name, (_, child) in zip(names, pairs, strict=True):
            inside = clock
            if type(ours).__name__ in OWN_TIME:
                inside = given.get("gradient_step", step_count_of(child, given[name]))
            parts.append(self.read(below(path, name), child, given[name], inside))
        whole = jax.tree.unflatten(structure, parts)
        convert = _CONVERSIONS.get(type(ours).__name__)
        return whole if convert is None or type(theirs) is type(ours) else convert(self, path, whole)

    def argument(self, path: str, factory: str, name: str) -> Any:
        """An argument of the calls of a factory in the expression, which must agree on it."""
        found = [e.arguments[name] for e in self.expressions if e.name == factory]
        if not found or any(value is not found[0] and value != found[0] for value in found[1:]):
            raise ValueError(
                f"from_optax_state: to read {show(path)} of the state, the expression must have one value of "
                f"the argument '{name}' of {factory}; got {len(found)} calls. Convert each part by itself"
            )
        return found[0]

    def row(self, path: str, whole: Any, ours: list[Any], theirs: list[Any], clock: Any) -> Any:
        """Reads a chain of another length than Optax's: stages without state are skipped."""
        waiting = [(i, part) for i, part in enumerate(theirs) if remembers(part)]
        kept = [i for i, part in enumerate(ours) if remembers(part)]
        if len(kept) != len(waiting):
            mine, other = ([type(part).__name__ for part in row if remembers(part)] for row in (ours, theirs))
            raise _mismatch(path, f"must have {_listed(mine)}; got {_listed(other)}")
        given = dict(zip(kept, waiting, strict=True))
        parts = []
        for i, part in enumerate(ours):
            if i in given:
                number, other = given[i]
                parts.append(self.read(below(path, number), part, other, clock))
            else:
                parts.append(self.filled(below(path, i), part, clock))
        return tuple(parts) if row_of(whole) else parts[0]

    def check_class(self, path: str, ours: Any, theirs: Any) -> None:
        mine, other = (hasattr(node, "_fields") and type(node).__name__ for node in (ours, theirs))
        if other and other != mine:
            raise _mismatch(path, f"must be {mine or describe(ours)}; got {other}")
        if is_leaf(theirs):
            raise _mismatch(path, f"must be {mine or describe(ours)}; got {describe(theirs)}")

    def filled(self, path: str, ours: Any, clock: Any) -> Any:
        """A part that Optax's state does not have; only a step count can be filled in."""
        if is_leaf(ours):
            raise _mismatch(path, f"must be {describe(ours)}; got nothing")
        pairs, structure = children(ours)
        counts = type(ours).__name__ in ("ScaleByScheduleState", "ScheduledState")
        parts = []
        for key, child in pairs:
            name = segment(key)
            if counts and name == "count":
                parts.append(self.steps(path, child, clock))
            else:
                parts.append(self.filled(below(path, name), child, clock))
        return jax.tree.unflatten(structure, parts)

    def steps(self, path: str, ours: Any, clock: Any) -> jax.Array:
        clock = self.count if clock is None else clock
        if clock is None and self.scheduled:
            raise ValueError(
                f"from_optax_state: argument 'count' must be given for the schedule at {show(path)}, because "
                "this state has no step count; got None"
            )
        return self.leaf(below(path, "count"), ours, 0 if clock is None else clock)

    def leaf(self, path: str, ours: Any, theirs: Any) -> jax.Array:
        """One array, as a copy in gradflow's shape and dtype."""
        value = theirs if is_leaf(theirs) else only_leaf(theirs)
        if isinstance(value, bool | int | float | complex):
            value = np.asarray(value)
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            what = _summary(theirs) if value is None else describe(value)
            raise _mismatch(path, f"must be {describe(ours)}; got {what}")
        ours_is_key, value_is_key = (jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in (ours, value))
        if ours_is_key and not value_is_key:
            value = jax.random.wrap_key_data(jnp.asarray(value))
        elif value_is_key and not ours_is_key:
            value = jax.random.key_data(cast(jax.Array, value))
        if value.shape != ours.shape and not value.size == np.prod(ours.shape) == 1:
            raise _mismatch(path, f"must be {describe(ours)}; got {describe(value)}")
        if ours_is_key:
            return jnp.array(value, copy=True).reshape(ours.shape)
        if _family(value.dtype) != _family(ours.dtype):
            raise _mismatch(path, f"must be {describe(ours)}; got {describe(value)}")
        if is_complex(value.dtype) and not is_complex(ours.dtype):
            value = value.real  # an average of |g|^2, which Optax keeps in the gradient's dtype
        copied = jnp.array(value, ours.dtype, copy=True).reshape(ours.shape)
        return replicate_like(copied, self.params) if ours.shape == () else copied


def _signs(reader: _Reader, path: str, state: Any) -> Any:
    """Converts the last step, which Optax keeps, to its sign."""
    return state._replace(prev_updates=jax.tree.map(jnp.sign, state.prev_updates))


def _deviations(reader: _Reader, path: str, state: Any) -> Any:
    """Converts the average square, which Optax keeps, to the average squared deviation."""
    whole: Any = 1.0
    if "count" in state._fields:
        decay = reader.argument(path, "scale_by_stddev", "decay")
        decay = decay(jnp.maximum(state.count - 1, 0)) if callable(decay) else decay
        share = 1 - jnp.asarray(decay, jnp.result_type(float))
        whole = jnp.where(state.count == 0, 1.0, one_minus_power(share, state.count))

    def centered(nu: jax.Array, mu: jax.Array) -> jax.Array:
        square = mu.real**2 + mu.imag**2 if is_complex(mu.dtype) else mu**2
        return jnp.maximum(nu - square / jnp.asarray(whole, nu.dtype), 0)

    return state._replace(nu=jax.tree.map(centered, state.nu, state.mu))


def _shares(reader: _Reader, path: str, state: Any) -> Any:
    """Converts the mean of the gradients so far, which Optax keeps, to their sum divided by k."""
    if not reader.argument(path, "MultiSteps", "use_grad_mean"):
        return state
    k = reader.argument(path, "MultiSteps", "every_k_schedule")
    k = jnp.asarray(k(state.gradient_step) if callable(k) else k, jnp.int32)
    share = state.mini_step.astype(jnp.float32) / k.astype(jnp.float32)
    return state._replace(acc_grads=jax.tree.map(lambda g: g * share.astype(g.dtype), state.acc_grads))


# States with fields whose meaning differs in Optax.
_CONVERSIONS: Mapping[str, Callable[[_Reader, str, Any], Any]] = {
    "MultiStepsState": _shares,
    "ScaleByRStdDevState": _deviations,
    "ScaleByRStdDevWithCountState": _deviations,
    "ScaleByRpropState": _signs,
}


def _holds_something(node: Any) -> bool:
    return any(np.size(leaf) for leaf in jax.tree.leaves(node))


def _listed(words: list[str]) -> str:
    return ", ".join(words) or "nothing"


def _family(dtype: Any) -> str:
    if is_inexact(dtype):
        return "inexact"
    return "bool" if dtype == np.bool_ else "integer"


def _summary(node: Any) -> str:
    leaves = jax.tree.leaves(node)
    return f"a tree of {len(leaves)} arrays" if not is_leaf(node) else describe(node)


def _mismatch(path: str, what: str) -> ValueError:
    return ValueError(
        f"from_optax_state: the state at {show(path)} {what}. The transformation must be made by the same "
        "call as Optax's."
    )

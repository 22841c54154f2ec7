"""Other libraries: Optax's transformations and states there and back, and states in `jax.export`.

A transformation is a pair `(init, update)` that most libraries take as it is: flax's TrainState and
nnx.Optimizer, equinox, haiku, optimistix, orbax. `to_optax` is for those that look at its type.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._base import GradientTransformation, OptState, Params, as_transformation, stages_of
from gradflow._base import ScheduledState as ScheduledState
from gradflow._dtypes import is_complex, is_inexact
from gradflow._errors import describe
from gradflow._stage import stage_of
from gradflow._state import place
from gradflow.tree._paths import children, segment, show


def to_optax(tx: GradientTransformation) -> Any:
    """`tx` as an `optax.GradientTransformationExtraArgs` of the same two functions.

    For what asks for that type before it hands on extra arguments: Optax's own wrappers, numpyro's adapter.
    Raises ImportError where Optax is not installed.
    """
    tx = as_transformation(tx, "to_optax", "the argument")
    try:
        optax = importlib.import_module("optax")
    except ImportError:
        raise ImportError("to_optax: Optax is not installed: pip install optax") from None
    return optax.GradientTransformationExtraArgs(tx.init, tx.update)


def from_optax(tx: Any) -> GradientTransformation:
    """Optax's transformation, or any pair `(init, update)`, as one of gradflow's with the same states.

    It has an expression, so that what it is part of prints, compares and has addresses; extra arguments
    that its update does not take are left out. Every wrapper and factory does this to what it is given.
    """
    whole = getattr(tx, "gradient_transformation", None)  # Optax's MultiSteps is no pair
    tx = whole() if callable(whole) else tx
    is_pair = isinstance(tx, tuple) and len(tx) == 2
    if is_pair and not isinstance(tx, GradientTransformation) and stage_of(GradientTransformation(*tx)):
        return GradientTransformation(*tx)  # gradflow's own, back from to_optax
    return as_transformation(tx, "from_optax", "the argument")


def from_optax_state(
    tx: GradientTransformation, state: Any, params: Params, *, count: int | jax.Array | None = None
) -> OptState:
    """The state with which `tx` goes on with a run that Optax began.

        tx = gradflow.adamw(schedule)
        state = from_optax_state(tx, state, params)   # the state of optax.adamw(schedule)

    Moments, counts and all else are copied, in the dtypes of `tx.init(params)`. Optax's own types are not
    needed: dicts and lists, as checkpoints are restored to, are read by the names of fields and positions.
    A step count that Optax does not keep, such as beside a fixed learning rate, is that of its neighbours.

    Args:
      tx: gradflow's transformation, of the same call as Optax's.
      state: what Optax's `init` and `update` returned.
      params: the parameters, or their shapes as `jax.ShapeDtypeStruct`.
      count: steps taken, for a state in which nothing tells.

    Raises ValueError naming the place in the state that does not fit, and for schedules with no count.
    """
    tx = as_transformation(tx, "from_optax_state", "argument 'tx'")
    ours = jax.eval_shape(tx.init, params)
    return _Reader(tx, params, count).read("", ours, state, _clock(ours, state))


def register_for_export() -> None:
    """Makes `jax.export` take gradflow's states, among the inputs and outputs of an exported function.

    To be called before `Exported.serialize`, and before `jax.export.deserialize` in the process that runs it.
    The names under which states are stored, such as "gradflow.ScaleByAdamState", do not change.
    """
    _register()


@functools.cache
def _register() -> None:
    export = importlib.import_module("jax.export")
    for kind in state_types():
        export.register_namedtuple_serialization(kind, serialized_name=f"gradflow.{kind.__name__}")


def state_types() -> list[type]:
    """gradflow's public NamedTuples of arrays: all that states are made of."""
    public = vars(importlib.import_module("gradflow._names")).values()
    kinds = {
        kind
        for kind in public
        if isinstance(kind, type) and issubclass(kind, tuple) and not issubclass(kind, GradientTransformation)
    }
    return sorted(kinds, key=lambda kind: kind.__name__)


# The field that counts the calls of update, where it is not `count` or where `count` counts something else.
_CALLS = {
    "ScaleByAdanState": "t",
    "ScaleBySimplifiedAdEMAMixState": "t",
    "ScheduleFreeState": "step_count",
    "ReduceLROnPlateauState": None,
    "ApplyEvery": None,
}
# Wrappers that do not call what is inside them at every call.
_OWN_TIME = frozenset(
    [
        "ApplyIfFiniteState",
        "ConditionallyMaskState",
        "ConditionallyTransformState",
        "MultiStepsState",
        "SAMState",
    ]
)


def _is_leaf(node: Any) -> bool:
    return jax.tree_util.all_leaves([node])


def _entries(node: Any) -> dict[str, Any]:
    """The children of a node of any kind by name; positions are the names in a tuple or a list."""
    if isinstance(node, Mapping):
        return {str(key): child for key, child in node.items()}
    return {segment(key): child for key, child in children(node)[0]}


def _clock(ours: Any, theirs: Any) -> Any:
    """The number of calls that a counter anywhere in this state has counted; None if there is none."""
    if _is_leaf(ours) or _is_leaf(theirs):
        return None
    name = type(ours).__name__
    own = type(ours).__module__.split(".")[0] == "gradflow"
    if own and name in _OWN_TIME:
        return None
    given = _entries(theirs)
    field = _CALLS.get(name, "count")
    if own and field is not None and _is_counter(getattr(ours, field, None)) and field in given:
        calls = _only_leaf(given[field])
        return calls - 1 if name == "ScheduleFreeState" else calls  # which counts from 1
    mine, other = _row(ours) or [ours], _row(theirs) or [theirs]
    if len(mine) != len(other):
        counts = (part["count"] for part in map(_entries, other) if set(part) == {"count"})
        return next(map(_only_leaf, counts), None)
    found = (_clock(child, given[key]) for key, child in _entries(ours).items() if key in given)
    return next((count for count in found if count is not None), None)


def _is_counter(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and leaf.shape == () and jnp.issubdtype(dtype, jnp.integer)


def _only_leaf(node: Any) -> Any:
    """A leaf out of the box that a library may keep it in."""
    leaves = jax.tree.leaves(node)
    return leaves[0] if len(leaves) == 1 else None


def _holds_something(node: Any) -> bool:
    return any(np.size(leaf) for leaf in jax.tree.leaves(node))


class _Reader:
    """Reads Optax's state into gradflow's: both are walked together, by the names of fields."""

    def __init__(self, tx: GradientTransformation, params: Params, count: Any) -> None:
        self.params = params
        self.count = count
        self.expressions = [stage.expression for stage in stages_of(tx)]
        self.scheduled = any(
            callable(expression.arguments.get(name))
            for expression in self.expressions
            for name in expression.maker.hyperparameters
        )

    def read(self, path: str, ours: Any, theirs: Any, clock: Any) -> Any:
        if _is_leaf(ours):
            return self.leaf(path, ours, theirs)
        if not jax.tree.leaves(ours):
            if _holds_something(theirs):
                raise _misfit(path, f"gradflow keeps nothing, and Optax {_summary(theirs)}")
            return ours
        if isinstance(ours, ScheduledState) and type(theirs).__name__ != "ScheduledState":
            inner = self.read(_below(path, "inner_state"), ours.inner_state, theirs, clock)
            return ScheduledState(self.steps(path, ours.count, clock), inner)
        if not _is_leaf(theirs) and not jax.tree.leaves(theirs):
            return self.filled(path, ours, clock)
        mine, other = _row(ours), _row(theirs)
        if (mine or other) and len(mine or [ours]) != len(other or [theirs]):
            return self.row(path, ours, mine or [ours], other or [theirs], clock)
        self.refuse_stranger(path, ours, theirs)
        given = _entries(theirs)
        pairs, structure = children(ours)
        names = [segment(key) for key, _ in pairs]
        missing = [name for name, (_, child) in zip(names, pairs, strict=True) if name not in given]
        left_over = [name for name in given if name not in names and _holds_something(given[name])]
        if missing or left_over:
            raise _misfit(path, f"gradflow keeps {_listed(names)}, and Optax {_listed([*given])}")
        parts = []
        for name, (_, child) in zip(names, pairs, strict=True):
            inside = clock
            if type(ours).__name__ in _OWN_TIME:
                inside = given["gradient_step"] if "gradient_step" in given else _clock(child, given[name])
            parts.append(self.read(_below(path, name), child, given[name], inside))
        whole = jax.tree.unflatten(structure, parts)
        meant = _MEANT.get(type(ours).__name__)
        return whole if meant is None or type(theirs) is type(ours) else meant(self, path, whole)

    def argument(self, path: str, factory: str, name: str) -> Any:
        """What the one call of a factory in the expression, or all of them alike, has for an argument."""
        found = [e.arguments[name] for e in self.expressions if e.name == factory]
        if not found or any(value is not found[0] and value != found[0] for value in found[1:]):
            raise ValueError(
                f"from_optax_state: to read {show(path)} of the state, the argument '{name}' of {factory} "
                f"must be known; the expression has {len(found)} of them. Take over each part by itself"
            )
        return found[0]

    def row(self, path: str, whole: Any, ours: list[Any], theirs: list[Any], clock: Any) -> Any:
        """A chain with more stages here than there: those without a memory are left out of the count."""
        waiting = [(i, part) for i, part in enumerate(theirs) if _remembers(part)]
        kept = [i for i, part in enumerate(ours) if _remembers(part)]
        if len(kept) != len(waiting):
            mine, other = (
                [type(part).__name__ for part in row if _remembers(part)] for row in (ours, theirs)
            )
            raise _misfit(path, f"gradflow keeps {_listed(mine)}, and Optax {_listed(other)}")
        given = dict(zip(kept, waiting, strict=True))
        parts = []
        for i, part in enumerate(ours):
            if i in given:
                number, other = given[i]
                parts.append(self.read(_below(path, number), part, other, clock))
            else:
                parts.append(self.filled(_below(path, i), part, clock))
        return tuple(parts) if _row(whole) else parts[0]

    def refuse_stranger(self, path: str, ours: Any, theirs: Any) -> None:
        mine, other = (hasattr(node, "_fields") and type(node).__name__ for node in (ours, theirs))
        if other and other != mine:
            raise _misfit(path, f"gradflow keeps {mine or describe(ours)}, and Optax {other}")
        if _is_leaf(theirs):
            raise _misfit(path, f"gradflow keeps {mine or describe(ours)}, and Optax {describe(theirs)}")

    def filled(self, path: str, ours: Any, clock: Any) -> Any:
        """A part of the state of which Optax's remembers nothing: there is only a count to know."""
        if _is_leaf(ours):
            raise _misfit(path, f"gradflow keeps {describe(ours)}, and Optax nothing")
        pairs, structure = children(ours)
        counts = type(ours).__name__ in ("ScaleByScheduleState", "ScheduledState")
        parts = []
        for key, child in pairs:
            name = segment(key)
            at = _below(path, name)
            if counts and name == "count":
                parts.append(self.steps(path, child, clock))
            else:
                parts.append(self.filled(at, child, clock))
        return jax.tree.unflatten(structure, parts)

    def steps(self, path: str, ours: Any, clock: Any) -> jax.Array:
        clock = self.count if clock is None else clock
        if clock is None and self.scheduled:
            raise ValueError(
                f"from_optax_state: a schedule needs the steps taken, and nothing in this state tells "
                f"what belongs at {show(path)}: pass count=..."
            )
        return self.leaf(_below(path, "count"), ours, 0 if clock is None else clock)

    def leaf(self, path: str, ours: Any, theirs: Any) -> jax.Array:
        """One array, as a copy in gradflow's shape and dtype."""
        value = theirs if _is_leaf(theirs) else _only_leaf(theirs)
        if isinstance(value, bool | int | float | complex):
            value = np.asarray(value)
        if not isinstance(value, jax.Array | np.ndarray | np.generic):
            what = _summary(theirs) if value is None else describe(value)
            raise _misfit(path, f"gradflow keeps {describe(ours)}, and Optax {what}")
        ours_is_key, value_is_key = (jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in (ours, value))
        if ours_is_key and not value_is_key:
            value = jax.random.wrap_key_data(jnp.asarray(value))
        elif value_is_key and not ours_is_key:
            value = jax.random.key_data(value)
        if value.shape != ours.shape and not value.size == np.prod(ours.shape) == 1:
            raise _misfit(path, f"gradflow keeps {describe(ours)}, and Optax {describe(value)}")
        if ours_is_key:
            return jnp.array(value, copy=True).reshape(ours.shape)
        if _family(value.dtype) != _family(ours.dtype):
            raise _misfit(path, f"gradflow keeps {describe(ours)}, and Optax {describe(value)}")
        if is_complex(value.dtype) and not is_complex(ours.dtype):
            value = value.real  # an average of |g|^2, which Optax keeps in the gradient's dtype
        copied = jnp.array(value, ours.dtype, copy=True).reshape(ours.shape)
        return place(copied, self.params) if ours.shape == () else copied


def _signs(reader: _Reader, path: str, state: Any) -> Any:
    """gradflow keeps the sign of the last step, and Optax the step."""
    return state._replace(prev_updates=jax.tree.map(jnp.sign, state.prev_updates))


def _deviations(reader: _Reader, path: str, state: Any) -> Any:
    """gradflow keeps the average squared deviation, and Optax the average square."""
    whole: Any = 1.0
    if "count" in state._fields:
        decay = reader.argument(path, "scale_by_stddev", "decay")
        decay = decay(jnp.maximum(state.count - 1, 0)) if callable(decay) else decay
        whole = jnp.where(state.count == 0, 1.0, 1 - decay**state.count)

    def centred(nu: jax.Array, mu: jax.Array) -> jax.Array:
        square = mu.real**2 + mu.imag**2 if is_complex(mu.dtype) else mu**2
        return jnp.maximum(nu - square / jnp.asarray(whole, nu.dtype), 0)

    return state._replace(nu=jax.tree.map(centred, state.nu, state.mu))


def _shares(reader: _Reader, path: str, state: Any) -> Any:
    """gradflow keeps the sum over k of the gradients in hand, and Optax their mean."""
    if not reader.argument(path, "MultiSteps", "use_grad_mean"):
        return state
    k = reader.argument(path, "MultiSteps", "every_k_schedule")
    k = jnp.asarray(k(state.gradient_step) if callable(k) else k, jnp.int32)
    share = state.mini_step.astype(jnp.float32) / k.astype(jnp.float32)
    return state._replace(acc_grads=jax.tree.map(lambda g: g * share.astype(g.dtype), state.acc_grads))


# Fields that mean another thing in Optax.
_MEANT: Mapping[str, Callable[[_Reader, str, Any], Any]] = {
    "MultiStepsState": _shares,
    "ScaleByRStdDevState": _deviations,
    "ScaleByRStdDevWithCountState": _deviations,
    "ScaleByRpropState": _signs,
}


def _below(path: str, name: Any) -> str:
    return f"{path}/{name}" if path else str(name)


def _listed(words: list[str]) -> str:
    return ", ".join(words) or "nothing"


def _row(node: Any) -> list[Any] | None:
    """The states of a chain: a tuple, or what a checkpoint makes of one; None for anything else."""
    if isinstance(node, Mapping):
        names = [str(i) for i in range(len(node))]
        return [node[name] for name in names] if node and all(name in node for name in names) else None
    return list(node) if isinstance(node, tuple | list) and not hasattr(node, "_fields") else None


def _remembers(node: Any) -> bool:
    """Whether there is more in a state than counts of steps."""
    if _is_leaf(node):
        return True
    entries = _entries(node)
    return set(entries) != {"count"} and any(map(_remembers, entries.values()))


def _family(dtype: Any) -> str:
    if is_inexact(dtype):
        return "inexact"
    return "bool" if dtype == np.bool_ else "integer"


def _summary(node: Any) -> str:
    leaves = jax.tree.leaves(node)
    return f"a tree of {len(leaves)} arrays" if not _is_leaf(node) else describe(node)


def _misfit(path: str, what: str) -> ValueError:
    return ValueError(
        f"from_optax_state: at {show(path)} of the state {what}. The transformation must be of the same "
        "call as Optax's."
    )

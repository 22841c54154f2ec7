"""Composition. The field's optimizers are chains of a few blocks:

sgd with momentum   chain(trace(0.9), scale_by_learning_rate(rate))
rmsprop             chain(scale_by_rms(), scale_by_learning_rate(rate))
adam                chain(scale_by_adam(), scale_by_learning_rate(rate))
adamw               chain(scale_by_adam(), add_decayed_weights(1e-4), scale_by_learning_rate(rate))
"""

from collections.abc import Callable
from typing import Any

import jax

from gradflow import tree
from gradflow._calls._checks import refuse_state
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs
from gradflow._types import EmptyState, OptState, Pair, Params, Updates


@transformation(leaves="any", packable=True, norm_first=None)
def chain(*args: GradientTransformation) -> Pair:
    """Applies transformations in order, each to the updates that the previous one returned.

    The state is the tuple of their states. Extra arguments go to every stage. `chain()` is the identity.

    Raises TypeError for an argument that is not a transformation.
    """
    stages = [as_transformation(a, "chain", f"argument {i}") for i, a in enumerate(args)]

    def init(params: Params) -> OptState:
        return tuple(stage.init(params) for stage in stages)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        if not isinstance(state, tuple) or hasattr(state, "_fields") or len(state) != len(stages):
            refuse_state(f"a tuple of {len(stages)} states", state)
        new_state = []
        for stage, part in zip(stages, state, strict=True):
            updates, part = stage.update(updates, part, params, **extra)
            new_state.append(part)
        return updates, tuple(new_state)

    return init, update


@transformation(leaves="any", packable=True, norm_first=None)
def named_chain(*args: tuple[str, GradientTransformation]) -> Pair:
    """`chain` for `(name, transformation)` pairs; the state is a dict by name.

    Raises TypeError for an argument that is not such a pair, ValueError for a name given twice.
    """
    for i, pair in enumerate(args):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(f"named_chain: argument {i} must be a pair (name, transformation)")
    names = [name for name, _ in args]
    if len(set(names)) < len(names):
        raise ValueError(f"named_chain: names must differ; got {names}")
    stages = {name: as_transformation(tx, "named_chain", f"'{name}'") for name, tx in args}

    def init(params: Params) -> OptState:
        return {name: stage.init(params) for name, stage in stages.items()}

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        if not isinstance(state, dict) or set(state) != set(stages):
            refuse_state(f"a dict of the states {names}", state)
        new_state = {}
        for name, stage in stages.items():
            updates, new_state[name] = stage.update(updates, state[name], params, **extra)
        return updates, new_state

    return init, update


def init_empty_state(params: Params) -> EmptyState:
    """The `init` of a stage without state."""
    return EmptyState()


@transformation(leaves="any", packable=True)
def identity() -> Pair:
    """Returns the updates unchanged. Leaves of any dtype pass through."""

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        return updates, state

    return init_empty_state, update


@transformation(leaves="any", packable=True)
def set_to_zero() -> Pair:
    """Returns zeros instead of the updates. Leaves of any dtype pass through."""

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        return tree.zeros_like(updates), state

    return init_empty_state, update


@transformation(leaves="any")
def stateless(f: Callable[[Updates, Params | None], Updates]) -> Pair:
    """A stage without state: `updates = f(updates, params)`. `f` receives leaves of any dtype."""

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        return f(updates, params), state

    return init_empty_state, update


@transformation(leaves="any")
def stateless_with_tree_map(f: Callable[[jax.Array, jax.Array | None], jax.Array]) -> Pair:
    """A stage without state: `u = f(u, p)` for each leaf; `p` is None if params are not given."""

    def update(
        updates: Updates, state: EmptyState, params: Params | None = None
    ) -> tuple[Updates, EmptyState]:
        if params is None:
            return jax.tree.map(lambda u: f(u, None), updates), state
        return jax.tree.map(
            lambda u, p: None if u is None else f(u, p),
            updates,
            params,
            is_leaf=lambda x: x is None,
        ), state

    return init_empty_state, update


def with_extra_args_support(tx: Any) -> GradientTransformationExtraArgs:
    """`tx` as a transformation whose update ignores extra arguments that it does not use."""
    made = as_transformation(tx, "with_extra_args_support", "the argument")
    # The two functions of a factory's transformation may be in a pair assembled by hand.
    takes_extra = isinstance(made, GradientTransformationExtraArgs)
    return made if takes_extra else GradientTransformationExtraArgs(*made)

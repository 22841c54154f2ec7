"""Leaves of one kind as one leaf, in the state too."""

import functools
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_leaves, check_like
from gradflow._calls._context import context, stage_name, unrecorded
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation, stages_of
from gradflow._selection._inner_arguments import inner_arguments
from gradflow._selection._stacks import Stacks, stacking
from gradflow._types import MaskedNode, OptState, Pair, Params, Updates, is_absent
from gradflow.tree._leaves import common_dtype
from gradflow.tree._unstack import unstack
from gradflow.wrappers._eval_params import VIEWS


class StackedState(NamedTuple):
    """The state of the inner transformation, for stacks in the place of their first leaves."""

    inner_state: OptState


@transformation
def stacked(inner: GradientTransformation) -> Pair:
    """Runs `inner` on stacks: leaves of one shape and dtype are one leaf with an axis more, the first.

        stacked(soap(3e-3))
        for_matrices(stacked(chain(scale_by_soap(), scale_by_learning_rate(3e-3))))

    XLA then compiles a rule for each kind of leaf, and not for each leaf, and a step holds little beside the
    stacks. SOAP on 100 matrices of two shapes compiles in half the time. The state is kept in stacks: each is
    in the place of its first leaf, and the others are `MaskedNode`. So it is not the state of `inner`.

    Args:
      inner: stages that are elementwise, take norms, or have a rule of matrices, and wrappers around them.
        Masks, labels and matrices are chosen for the leaves as they are; leaves share a stack where all
        choices are the same.

    Updates are those of `inner`, to rounding where there are sums; random numbers, as in `kron`, are others.
    On accelerators a loop takes the matrices of a stack one by one. Stacks of gradients, updates and
    parameters are copies. A gradient that is None counts as zero where its stack has another one.

    Raises ValueError for a stage that needs leaves as they are, or that averages parameters: it belongs
    outside. Raises it for masks that read values, and inside of `spread` and `shard_state`, which lay out
    leaves by path.

    >>> import gradflow as gf
    >>> print(gf.stacked(gf.muon(0.02)))
    stacked(muon(0.02))
    """
    for stage in stages_of(inner):
        has_view = stage.signature.state_type in VIEWS
        if has_view or not stage.stackable:
            why = "keeps averages of leaves" if has_view else "needs leaves as they are"
            raise ValueError(
                "stacked: argument 'inner' must consist of stages that can take stacks of leaves; got "
                f"{stage.expression.name}, and {stage.expression.name} {why}. Put it outside of stacked"
            )
    grouped = functools.lru_cache(maxsize=16)(functools.partial(_grouped, inner))

    def members_of(params: Params) -> Members:
        if context.spread is not None or context.shards is not None:
            raise ValueError(
                f"{stage_name()}: must not be inside of spread or shard_state, which lay out leaves by path"
            )
        leaves, structure = jax.tree.flatten(params, is_leaf=is_absent)
        if not all(is_absent(x) or hasattr(x, "dtype") for x in leaves):
            check_leaves("any", "parameters", params)
        members: Members = grouped(structure, tuple(None if is_absent(x) else _kind(x) for x in leaves))
        return members

    def init(params: Params) -> OptState:
        members = members_of(params)
        with stacking(Stacks(members)):
            return StackedState(inner.init(_stack(members, params)))

    def update(
        updates: Updates, state: StackedState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, StackedState]:
        if params is not None:
            check_like("updates", updates, "params", params)
        leaves = updates if params is None else params
        members = members_of(leaves)
        to_stacks = functools.partial(_stack, members)
        extra = inner_arguments(extra, to_stacks, functools.partial(_unstack, members, like=leaves))
        given = None if params is None else to_stacks(params)
        with stacking(Stacks(members)):
            new, inner_state = inner.update(to_stacks(updates), state.inner_state, given, **extra)
        return _unstack(members, new, updates), StackedState(inner_state)

    return init, update


Members = dict[int, tuple[int, ...]]


def _kind(leaf: Any) -> Any:
    sharding: Any = jax.typeof(leaf).sharding
    return tuple(leaf.shape), leaf.dtype, sharding if sharding.mesh.explicit_axes else None


def _grouped(inner: GradientTransformation, structure: Any, kinds: tuple[Any, ...]) -> Members:
    """The places of the leaves of each stack, by that of the first.

    They are of one kind, and every choice in `inner.init` says the same of them.
    """
    leaves = [MaskedNode() if kind is None else jax.ShapeDtypeStruct(*kind[:2]) for kind in kinds]
    params = structure.unflatten(leaves)
    keys: list[tuple[Hashable, ...]] = [(kind,) for kind in kinds]
    while True:
        members: Members = {}
        places: dict[Hashable, int] = {}
        for place, kind in enumerate(kinds):
            if kind is not None:
                first = places.setdefault(keys[place], place)
                members[first] = (*members.get(first, ()), place)
        stacks = Stacks(members)
        try:
            with stacking(stacks), unrecorded():
                inner.init(_stack(members, params))
        except ValueError:
            if not stacks.differing:
                raise
        if not stacks.differing:
            return members
        for place, value in stacks.differing.items():
            keys[place] += (value,)


def _stack(members: Members, tree: Any) -> Any:
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_absent)
    results: list[Any] = [x if is_absent(x) else MaskedNode() for x in leaves]
    for first, own in members.items():
        results[first] = _joined([leaves[place] for place in own])
    return structure.unflatten(results)


def _joined(leaves: Sequence[Any]) -> Any:
    """The leaves as one, zeros for those that are absent; what they are if all of them are."""
    present = [x for x in leaves if not is_absent(x)]
    if not present:
        return leaves[0]
    if isinstance(present[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(leaves), *present[0].shape), present[0].dtype)
    if len(leaves) == 1:
        return jnp.expand_dims(present[0], 0)
    if len(present) == len(leaves) and all(x.dtype == present[0].dtype for x in present):
        return jnp.stack(present)  # keys, too, which have no zeros
    dtype = common_dtype(x.dtype for x in present)
    return jnp.stack([jnp.zeros_like(present[0], dtype) if is_absent(x) else x.astype(dtype) for x in leaves])


def _unstack(members: Members, tree: Any, like: Any) -> Any:
    """The leaves of stacks, in the dtypes of those of `like` and absent where these are."""
    leaves: list[Any]
    structure: Any
    leaves, structure = jax.tree.flatten(like, is_leaf=is_absent)
    stacks = structure.flatten_up_to(tree)
    results = list(leaves)
    for first, own in members.items():
        stack = stacks[first]
        if is_absent(stack):
            continue
        rows = unstack(stack) if len(own) > 1 else [stack.reshape(stack.shape[1:])]
        for place, row in zip(own, rows, strict=True):
            if not is_absent(leaves[place]):
                results[place] = row.astype(leaves[place].dtype)
    return structure.unflatten(results)

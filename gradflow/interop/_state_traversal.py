"""Walking two states together by field names, and finding their step counts."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradflow.tree._paths import children, segment

# The field that counts calls of update, where it is not `count`.
_CALLS = {
    "ScaleByAdanState": "t",
    "ScaleBySimplifiedAdEMAMixState": "t",
    "ScheduleFreeState": "step_count",
    "ReduceLROnPlateauState": None,
    "ApplyEvery": None,
}
# Wrappers that do not call their inner transformation at every step.
OWN_TIME = frozenset(
    [
        "ApplyIfFiniteState",
        "ConditionallyMaskState",
        "ConditionallyTransformState",
        "MultiStepsState",
        "SAMState",
    ]
)


def is_leaf(node: Any) -> bool:
    """Whether a node is an array or a number; None is not a leaf."""
    return jax.tree_util.all_leaves([node])


def entries(node: Any) -> dict[str, Any]:
    """The children of a node by name; positions are the names in tuples and lists."""
    if isinstance(node, Mapping):
        return {str(key): child for key, child in node.items()}
    return {segment(key): child for key, child in children(node)[0]}


def step_count_of(ours: Any, theirs: Any) -> Any:
    """The number of update calls according to a counter in this state; None if it has no counter."""
    if is_leaf(ours) or is_leaf(theirs):
        return None
    name = type(ours).__name__
    own = type(ours).__module__.split(".")[0] == "gradflow"
    if own and name in OWN_TIME:
        return None
    given = entries(theirs)
    field = _CALLS.get(name, "count")
    if own and field is not None and _is_counter(getattr(ours, field, None)) and field in given:
        calls = only_leaf(given[field])
        return calls - 1 if name == "ScheduleFreeState" else calls  # counts from 1
    mine, other = row_of(ours) or [ours], row_of(theirs) or [theirs]
    if len(mine) != len(other):
        counts = (part["count"] for part in map(entries, other) if set(part) == {"count"})
        return next(map(only_leaf, counts), None)
    found = (step_count_of(child, given[key]) for key, child in entries(ours).items() if key in given)
    return next((count for count in found if count is not None), None)


def _is_counter(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and leaf.shape == () and jnp.issubdtype(dtype, jnp.integer)


def only_leaf(node: Any) -> Any:
    """The only leaf of a node, such as a box around it; None if there is not exactly one."""
    leaves = jax.tree.leaves(node)
    return leaves[0] if len(leaves) == 1 else None


def below(path: str, name: Any) -> str:
    """The path of a child."""
    return f"{path}/{name}" if path else str(name)


def row_of(node: Any) -> list[Any] | None:
    """The states of a chain, from a tuple or from the list or dict to which it was restored; else None."""
    if isinstance(node, Mapping):
        names = [str(i) for i in range(len(node))]
        return [node[name] for name in names] if node and all(name in node for name in names) else None
    return list(node) if isinstance(node, tuple | list) and not hasattr(node, "_fields") else None


def remembers(node: Any) -> bool:
    """Whether a state has anything but step counts."""
    if is_leaf(node):
        return True
    parts = entries(node)
    return set(parts) != {"count"} and any(map(remembers, parts.values()))

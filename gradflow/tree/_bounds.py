"""Bounds of the leaves of a tree: one reader for everything that takes `lower` and `upper`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe
from gradflow.tree._leaves import broadcasts_to
from gradflow.tree._paths import is_none, path_string, show
from gradflow.tree._structure import explain_trees


class Owner(NamedTuple):
    """Names in errors: the function, what it calls its tree, and its two arguments."""

    name: str
    tree: str = "params"
    lower: str = "lower"
    upper: str = "upper"


def read_bounds(owner: Owner, params: Any, lower: Any, upper: Any) -> list[tuple[Any, Any]]:
    """The two bounds of each leaf, None for no bound.

    A bound is a number or an array for every leaf, or a tree like `params` of them, or None, there or alone.
    Concrete numbers of Python and NumPy are compared; reading a jax array would wait for the device.

    Raises TypeError for what is not real; ValueError for NaN, for a bound that does not fit, and for a lower
    one above the upper one, naming the path.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_none)
    lowers = _for_each_leaf(owner, owner.lower, params, lower, len(flat))
    uppers = _for_each_leaf(owner, owner.upper, params, upper, len(flat))
    pairs = []
    for (path, leaf), low, high in zip(flat, lowers, uppers, strict=True):
        if leaf is None:
            continue
        where = show(path_string(path))
        for argument, bound in ((owner.lower, low), (owner.upper, high)):
            check_bound(owner.name, argument, bound, f" at {where}")
            if bound is not None and not broadcasts_to(np.shape(bound), np.shape(leaf)):
                raise ValueError(
                    f"{owner.name}: argument '{argument}' must broadcast to the shape {np.shape(leaf)} of "
                    f"'{owner.tree}' at {where}; got {np.shape(bound)}"
                )
        known = not any(bound is None or isinstance(bound, jax.Array) for bound in (low, high))
        if known and np.any(np.asarray(low) > np.asarray(high)):
            raise ValueError(
                f"{owner.name}: argument '{owner.lower}' must not be above '{owner.upper}'; got "
                f"{describe(low)} and {describe(high)} at {where}"
            )
        pairs.append((_as_float(low), _as_float(high)))
    return pairs


def between(x: jax.Array, lower: Any, upper: Any) -> jax.Array:
    """`min(max(x, lower), upper)`; None is no bound. A number on a bound is inside: its derivative is one.

    A NaN stays NaN, and a NaN bound gives NaN. Where bounds are crossed, it is the upper one.
    """
    if lower is not None:
        low = jnp.broadcast_to(jnp.asarray(lower, x.dtype), x.shape)
        x = jnp.where((x >= low) | jnp.isnan(x), x, low)
    if upper is not None:
        high = jnp.broadcast_to(jnp.asarray(upper, x.dtype), x.shape)
        x = jnp.where((x <= high) | jnp.isnan(x), x, high)
    return x


def check_bound(owner: str, argument: str, bound: Any, where: str = "") -> None:
    """Raises TypeError for a bound that is not real, ValueError for one that is NaN."""
    if bound is None:
        return
    is_number = isinstance(bound, int | float | np.ndarray | np.generic | jax.Array)
    if not is_number or isinstance(bound, bool) or _kind(bound) not in "fiu":
        raise TypeError(
            f"{owner}: argument '{argument}' must have real numbers; got {describe(bound)}{where}"
        )
    if not isinstance(bound, jax.Array) and np.isnan(_as_float(bound)).any():
        raise ValueError(f"{owner}: argument '{argument}' must have no NaN; got {describe(bound)}{where}")


def _as_float(bound: Any) -> Any:
    """A Python integer as a float, because it may be larger than its dtype in jax holds."""
    return float(bound) if isinstance(bound, int) else bound


def _kind(bound: Any) -> str:
    if not hasattr(bound, "dtype"):
        return "f"
    # The kind of a dtype such as bfloat16 is that of a record.
    return "f" if jnp.issubdtype(bound.dtype, np.floating) else getattr(bound.dtype, "kind", "key")


def _for_each_leaf(owner: Owner, argument: str, params: Any, bound: Any, count: int) -> list[Any]:
    given, structure = jax.tree_util.tree_flatten_with_path(bound, is_leaf=is_none)
    if jax.tree_util.treedef_is_leaf(structure):
        return [bound] * count
    # Paths, and not structures: the arguments of a value are kept with tuples in the place of lists.
    wanted, _ = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_none)
    if [path_string(path) for path, _ in given] != [path_string(path) for path, _ in wanted]:
        raise ValueError(
            f"{owner.name}: argument '{argument}' must be a number or a tree like '{owner.tree}': "
            f"{explain_trees(owner.tree, params, argument, bound)}"
        )
    return [leaf for _, leaf in given]

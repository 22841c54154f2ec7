"""Rules about matrices whose state has the shapes of the leaves."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gradflow._rules._leafwise import Rule, Scalars, leafwise, specialize
from gradflow._selection._partial_trees import fill_none
from gradflow._types import MaskedNode, is_absent


def with_gathered(f: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """`f(x)` with `x` replicated on every device, where shardings are explicit.

    Results of the shape of `x` get its sharding back.
    """
    sharding: Any = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return f(x)
    whole = NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim))
    return jax.tree.map(
        lambda y: jax.sharding.reshard(y, sharding) if y.shape == x.shape else y,
        f(jax.sharding.reshard(x, whole)),
    )


def leafwise_matrices(
    rule: Rule,
    axes: Any,
    trees: tuple[Any, ...],
    scalars: Callable[..., Scalars] | None = None,
    /,
    *,
    shapes: bool = True,
    **hyper: Any,
) -> tuple[Any, ...]:
    """`leafwise` for a rule with the keyword `axes`, which may differ per leaf.

    The rule returns one value per tree.
    """
    updates, *others = trees
    flat, structure = jax.tree.flatten(updates, is_leaf=is_absent)
    own = jax.tree.leaves(axes, is_leaf=is_absent)
    kinds = dict.fromkeys(a for a, g in zip(own, flat, strict=True) if not is_absent(g))
    result = updates
    for kind in kinds:
        mine = [g if a == kind or isinstance(g, MaskedNode) else None for a, g in zip(own, flat, strict=True)]
        part = jax.tree.unflatten(structure, mine)
        u, *others = leafwise(specialize(rule, axes=kind), (part, *others), scalars, shapes=shapes, **hyper)
        result = u if len(kinds) == 1 else fill_none(u, result)
    return result, *others

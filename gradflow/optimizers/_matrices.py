"""Axes of the matrices in a leaf, for rules that update matrices."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gradflow._calls._context import stage_name
from gradflow._errors import describe
from gradflow._rules._leafwise import Rule, Scalars, leafwise, specialize
from gradflow._selection._absent import MaskedNode, is_absent
from gradflow._selection._partial_trees import fill_none
from gradflow.tree._paths import is_none, longest_prefix, path_string, segment, show


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """The axes of a leaf that are rows and columns of matrices; the others are batch axes."""

    reduction: tuple[int, ...]
    output: tuple[int, ...]

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """The input and output sizes of a matrix."""
        return math.prod(shape[i] for i in self.reduction), math.prod(shape[i] for i in self.output)

    def batch(self, ndim: int) -> tuple[int, ...]:
        return tuple(i for i in range(ndim) if i not in self.reduction + self.output)


MATRIX = MatrixAxes((0,), (1,))


def to_matrices(x: jax.Array, axes: MatrixAxes) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """A leaf as (..., rows, columns), and the function that restores its shape."""
    if x.ndim == 2 and axes == MATRIX:
        return x, lambda y: y
    batch = axes.batch(x.ndim)
    order = (*batch, *axes.reduction, *axes.output)
    apart = [x.shape[i] for i in order]
    together = tuple(x.shape[i] for i in batch)
    back = tuple(order.index(i) for i in range(x.ndim))
    matrices = x.transpose(order).reshape(*together, *axes.sizes(x.shape))
    return matrices, lambda y: y.reshape(apart).transpose(back)


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


def resolve_axes(numbers: Any, params: Any, kind: type, *, at_least: int = 0) -> Any:
    """A tree like `params` of `MatrixAxes`, with None for leaves that are not matrices.

    `numbers` is None, which selects leaves of two axes, or one `kind` for all leaves. It may also be a tree
    of them and of None, or a prefix of one, or a function from params to such a tree. Paths must match.
    Leaves of fewer axes than `at_least` are not matrices. Raises TypeError for anything else, ValueError
    naming the leaf for axes that it does not have and for a leaf left out.
    """
    if callable(numbers) and jax.tree_util.all_leaves([numbers]):
        numbers = numbers(params)
    flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_absent)
    if numbers is None:
        return jax.tree.unflatten(
            structure, [p if is_absent(p) else MATRIX if p.ndim == 2 else None for _, p in flat]
        )
    given: dict[tuple[str, ...], Any] = {}
    for path, spec in jax.tree_util.tree_flatten_with_path(
        numbers, is_leaf=lambda x: is_none(x) or isinstance(x, kind | MaskedNode)
    )[0]:
        if not isinstance(spec, kind | MaskedNode | None):
            raise TypeError(
                f"{stage_name()}: dimension numbers must be {kind.__name__} or None; got {describe(spec)} at "
                f"{show(path_string(path))}"
            )
        given[tuple(map(segment, path))] = spec
    found_axes: list[Any] = []
    for path, leaf in flat:
        names = tuple(map(segment, path))
        prefix = longest_prefix(names, given)
        if is_absent(leaf):
            found_axes.append(leaf)
            continue
        if prefix is None:
            raise ValueError(
                f"{stage_name()}: dimension numbers must cover every parameter; got none for the one at "
                f"{show('/'.join(names))}. Use None for a parameter that is not a matrix."
            )
        spec = given[prefix] if leaf.ndim >= at_least else None
        found_axes.append(_axes(spec, leaf, "/".join(names)) if isinstance(spec, kind) else None)
    return jax.tree.unflatten(structure, found_axes)


def _axes(spec: Any, leaf: Any, path: str) -> MatrixAxes:
    """One leaf's axes, counted from the first."""
    pair = [(a,) if isinstance(a, int) else tuple(a) for a in spec]
    axes = [i for group in pair for i in group]
    wrong = [i for i in axes if not -leaf.ndim <= i < leaf.ndim]
    counted = [i % leaf.ndim for i in axes if not wrong]
    if wrong or len(set(counted)) < len(counted) or not all(pair):
        raise ValueError(
            f"{stage_name()}: dimension numbers must name different axes of the parameter at {show(path)} of "
            f"shape {leaf.shape}; got {spec}"
        )
    first = len(pair[0])
    return MatrixAxes(tuple(counted[:first]), tuple(counted[first:]))


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

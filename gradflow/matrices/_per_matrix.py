"""One rule for one matrix over trees of leaves that are matrices, stacks of them, or cut into them."""

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow._calls._checks import refuse_coded
from gradflow._calls._context import stage_name
from gradflow._checked import FUNCTION, SHAPED, Leaves, checked
from gradflow._coding._leaves import decoded, is_coded
from gradflow._dtypes import compute_dtype, is_inexact, promote, real_dtype
from gradflow._errors import describe
from gradflow._rules._leafwise import Rule, Scalars, _prepare, in_dtype_of
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._state import zero_scalar
from gradflow._shardings import sharded_alike, with_sharding_of
from gradflow._types import is_absent
from gradflow.matrices._exchange import Run, call_spread
from gradflow.matrices._loops import call_in_loops
from gradflow.matrices._matrix import WHOLE, MatrixAxes, to_blocks
from gradflow.matrices._spread import Cut, cut_of, factor_cut, is_cut_anywhere, laid_out
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._paths import is_none, path_string, segment, show


def per_matrix(
    rule: Rule,
    axes: Any,
    trees: tuple[Any, ...],
    scalars: Callable[..., Scalars] | None = None,
    /,
    *,
    in_loops: bool = False,
    **hyper: Any,
) -> tuple[Any, ...]:
    """Applies `rule` to each matrix of the leaves of `trees`: `leafwise` over matrices.

    `rule(g, *others, s) -> (u, *news)` is a pure module-level function of one matrix (rows, columns). A
    stack of equal matrices is a `vmap` of the rule, so a decomposition in it belongs into `linalg.refresh`.
    Precision, `s` and `hyper` are those of `leafwise`.

    The first tree is the updates. In the others a leaf of the updates may have any tree of arrays, such as a
    tuple of factors, None, or a PRNG key. An array of the leaf's shape is cut like the leaf. Anything else
    is of one matrix: a stack of matrices has it stacked, and a leaf that is cut into unequal blocks has a
    tuple of it, one for each block. `init_per_matrix` makes such a tree.

    Args:
      rule: returns as many values as there are trees, or fewer: the later ones are only read.
      axes: a tree like the updates of `MatrixAxes`, from `resolve_matrices`. `WHOLE` gives the rule the
        leaf as it is.
      in_loops: on a CPU, leaves of one type go through a loop, which is compiled once. It copies them, so it
        is for rules of several matrix products.

    Leaves without an element are left as they are.
    """
    refuse_varying("a matrix", trees[0])
    structure: Any = jax.tree.structure(trees[0], is_leaf=is_none)
    flat = jax.tree.leaves(trees[0], is_leaf=is_none)
    columns = [flat, *(at_leaves(structure, tree) for tree in trees[1:])]
    own = at_leaves(structure, axes)
    rows = list(zip(*columns, strict=True))
    outputs: list[tuple[Any, ...]] = list(rows)
    cuts = _cuts(trees[0], own, rows)
    places: dict[Any, list[int]] = {}
    for index, (a, row) in enumerate(zip(own, rows, strict=True)):
        if row[0] is not None and row[0].size:
            leaves, kind = jax.tree.flatten(row)
            cut = cuts.get(index)
            like = None if cut is None else (cut, is_leaf_shaped(row), *((x.shape, x.dtype) for x in leaves))
            places.setdefault((a, kind, precision_of(leaves), like), []).append(index)
    for (a, kind, precision, like), indices in places.items():
        if any(map(is_coded, jax.tree.leaves(rows[indices[0]], is_leaf=is_coded))):
            refuse_coded()
        numbers = _prepare(scalars, hyper, precision)
        flat_rows = [tuple(jax.tree.leaves(rows[i])) for i in indices]
        if like is None:
            call = call_in_loops if in_loops else call_in_groups
            results: Any = call(_compiled(rule, a, kind), flat_rows, numbers)
        else:
            shape = rows[indices[0]][0].shape
            results = call_spread(_on_stacks(rule, kind), like[0], a, shape, flat_rows, like[1], numbers)
            results = [_as_rows(kind, result) for result in results]
        for index, result in zip(indices, results, strict=True):
            outputs[index] = result
    width = min((len(out) for out in outputs), default=len(trees))
    slots = [list(slot) for slot in zip(*(out[:width] for out in outputs), strict=True)]
    return tuple(jax.tree.unflatten(structure, slot) for slot in slots or [[]] * width)


def _cuts(updates: Any, axes: list[Any], rows: list[tuple[Any, ...]]) -> dict[int, Cut]:
    """How the leaves are cut whose matrices are shared out over a mesh, by place."""
    if not any(is_cut_anywhere(row[0]) for row in rows if row[0] is not None):
        return {}
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)[0]]
    found = {}
    for index, (path, a, row) in enumerate(zip(paths, axes, rows, strict=True)):
        if row[0] is not None and row[0].size:
            cut = spread_cut(row[0], tuple(map(segment, path)), a, row)
            if cut is not None:
                found[index] = cut
    return found


def spread_cut(leaf: Any, path: tuple[str, ...], axes: MatrixAxes, row: tuple[Any, ...]) -> Cut | None:
    """How a leaf is cut whose matrices can be brought to other devices with all that is in its row."""
    cut = cut_of(leaf, path, axes)
    if cut is None or any(is_coded(x) for x in jax.tree.leaves(row, is_leaf=is_coded)):
        return None
    arrays = jax.tree.leaves(row)
    if not all(isinstance(x, jax.Array) for x in arrays):
        return None
    others = [x for x, own in zip(arrays, is_leaf_shaped(row, leaf.shape), strict=True) if not own]
    able = all(factor_cut(cut, leaf.shape, axes, x.shape) is not None for x in others)
    return cut if able and (axes != WHOLE or cut.cuts is not None) else None


def is_leaf_shaped(row: Sequence[Any], shape: tuple[int, ...] | None = None) -> tuple[bool, ...]:
    """For each array of a row whether it is cut like the leaf, of this shape or that of the first array."""
    shape = row[0].shape if shape is None else shape
    return tuple(isinstance(x, jax.Array) and x.shape == shape for x in row for _ in jax.tree.leaves(x))


@functools.cache
def _on_stacks(rule: Rule, kind: Any) -> Run:
    """The rule on stacks (count, ...) of whole matrices and of what belongs to them."""

    def of(axes: MatrixAxes, sides: tuple[int, ...]) -> Callable[..., tuple[jax.Array, ...]]:
        def run(leaves: tuple[jax.Array, ...], scalars: Scalars) -> tuple[jax.Array, ...]:
            real = precision_of(list(leaves))
            values = kind.unflatten([widened(x, real) for x in leaves])
            with jax.numpy_dtype_promotion("standard"):
                results = on_stacks(bound(rule, scalars), axes, sides, values, jax.vmap)
            return tuple(in_dtype_of(y, x) for y, x in zip(jax.tree.leaves(results), leaves, strict=False))

        return run

    return of


def on_stacks(
    call: Callable[..., tuple[Any, ...]],
    axes: MatrixAxes,
    sides: tuple[int, ...],
    values: Sequence[Any],
    stacked: Callable[..., Any],
) -> tuple[Any, ...]:
    """`on_blocks` for values that are stacks: of matrices with these sides, and of what belongs to each."""
    count = jax.tree.leaves(list(values))[0].shape[0]
    if count > 1:
        return tuple(
            stacked(call)(*values)
            if axes == WHOLE
            else on_blocks(call, axes, (count, *sides), values, stacked)
        )

    # A stack of one has no axis that counts matrices; in arrays of the matrices' shape, `on_blocks` drops it.
    def has_no_count(x: Any) -> bool:
        return axes != WHOLE and isinstance(x, jax.Array) and x.shape == (count, *sides)

    alone = [x if has_no_count(x) else jax.tree.map(lambda y: y[0], x) for x in values]
    results = call(*alone) if axes == WHOLE else on_blocks(call, axes, (count, *sides), alone, stacked)
    return tuple(
        y if has_no_count(x) else jax.tree.map(lambda z: z[None], y)
        for y, x in zip(results, values, strict=False)
    )


def _as_rows(kind: Any, arrays: tuple[jax.Array, ...]) -> tuple[Any, ...]:
    """Results as trees like the first ones of a row."""
    trees, rest = [], list(arrays)
    for child in kind.children():
        if len(rest) < child.num_leaves:
            break
        trees.append(jax.tree.unflatten(child, rest[: child.num_leaves]))
        rest = rest[child.num_leaves :]
    return tuple(trees)


def at_leaves(structure: Any, tree: Any) -> list[Any]:
    """What a tree has at each leaf of a structure."""
    try:
        return list(structure.flatten_up_to(tree))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{stage_name()}: the state must have something for each leaf of the updates, as init made it "
            f"for these parameters: {error}"
        ) from None


def precision_of(leaves: list[Any]) -> np.dtype:
    kinds = (compute_dtype(leaf.dtype) for leaf in leaves if is_inexact(leaf.dtype))
    return real_dtype(functools.reduce(promote, kinds))


@functools.cache
def _compiled(rule: Rule, axes: MatrixAxes, structure: Any) -> Callable[..., tuple[Any, ...]]:
    """The rule on a row of leaves, each with all its matrices, as one jitted function."""

    def run(leaves: tuple[jax.Array, ...], scalars: Scalars) -> tuple[Any, ...]:
        real = precision_of(list(leaves))
        olds = structure.unflatten(leaves)
        values = jax.tree.map(lambda x: whole(widened(x, real)), decoded(olds))
        shape = values[0].shape
        with jax.numpy_dtype_promotion("standard"):
            results = on_blocks(bound(rule, scalars), axes, shape, values, jax.vmap)
        return tuple(put_back(shape, result, old) for result, old in zip(results, olds, strict=False))

    run.__name__ = run.__qualname__ = getattr(rule, "__name__", "rule")
    return jax.jit(run)


def bound(rule: Rule, scalars: Scalars) -> Callable[..., tuple[Any, ...]]:
    """A rule with its scalars, that returns a tuple."""

    def call(*operands: Any) -> tuple[Any, ...]:
        result = rule(*operands, SimpleNamespace(**scalars))
        return result if isinstance(result, tuple) else (result,)

    return call


def on_blocks(
    call: Callable[..., tuple[Any, ...]],
    axes: MatrixAxes,
    shape: tuple[int, ...],
    values: Sequence[Any],
    stacked: Callable[..., Any],
) -> tuple[Any, ...]:
    """`call` on each matrix of a leaf of this shape; `stacked(call)` on each stack of equal ones."""
    if axes == WHOLE:
        return call(*values)
    cut = [isinstance(x, jax.Array) and x.shape == shape for x in values]
    parts = axes.shapes(shape)
    columns: list[Any] = []
    back: Callable[[list[Any]], Any] = list
    for x, is_cut in zip(values, cut, strict=True):
        if is_cut:
            blocks, back = to_blocks(x, axes)
        columns.append(blocks if is_cut else [x] if len(parts) == 1 else list(x))
    results = [
        (stacked(call) if count > 1 else call)(*(column[i] for column in columns))
        for i, (count, _, _) in enumerate(parts)
    ]
    return tuple(
        back(list(made)) if is_cut else made[0] if len(parts) == 1 else made
        for made, is_cut in zip(zip(*results, strict=True), cut, strict=False)
    )


def widened(x: Any, real: np.dtype) -> Any:
    return x.astype(promote(x.dtype, real)) if is_inexact(x.dtype) else x


def whole(x: Any) -> Any:
    """An array that is whole on every device, where shardings are explicit."""
    sharding: Any = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return x
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def put_back(leaf_shape: tuple[int, ...], new: Any, old: Any) -> Any:
    """Results in the dtypes, layouts and codes of the tree in whose place they come."""
    if is_coded(old):
        return old.encode(new)
    return jax.tree.map(functools.partial(put_back_like, leaf_shape), new, old)


def put_back_exchanged(leaf_shape: tuple[int, ...], new: Any, old: Any) -> Any:
    """Results that have the layout of the tree in whose place they come, in its dtypes.

    `sharded_alike` would cut the factors of a vector, too, where they have the shape of these.
    """
    del leaf_shape
    return jax.tree.map(lambda x, y: with_sharding_of(in_dtype_of(x, y), y), new, old)


def put_back_like(leaf_shape: tuple[int, ...], new: jax.Array, old: jax.Array) -> jax.Array:
    """A result in the dtype and the layout of the array in whose place it comes."""
    new = in_dtype_of(new, old)
    sharding: Any = jax.typeof(old).sharding
    if sharding.mesh.explicit_axes:
        return jax.sharding.reshard(new, sharding)
    if new.shape != leaf_shape and new.ndim and is_inexact(new.dtype):
        # A product of a sharded leaf with itself would be sharded, and the next step compiled again for it.
        new = sharded_alike(new, old)
    return new


MATRIX_AXES = Leaves("MatrixAxes", lambda leaf: isinstance(leaf, MatrixAxes))


@checked(make=FUNCTION, params=SHAPED, axes=MATRIX_AXES)
def init_per_matrix(make: Callable[[tuple[int, ...], Any], Any], axes: Any, params: Any) -> Any:
    """A tree for `per_matrix` of what `make(shape, parameter)` gives for one matrix of that shape.

    `make` returns a tree of arrays, which do not depend on the parameter's values, and of None. They are
    placed as `zero_scalar` places scalars: replicated on the parameters' mesh. Where matrices are shared out,
    each device has a piece of them.
    """

    def placed(x: Any, p: Any, cut: Cut | None, a: MatrixAxes, stack: tuple[int, ...] = ()) -> Any:
        value = zero_scalar(p, x.dtype) + x
        value = jnp.broadcast_to(value, (*stack, *x.shape)) if stack else value
        own = None if cut is None else factor_cut(cut, p.shape, a, value.shape)
        return value if own is None else laid_out(value, own)

    def one(keys: Any, p: Any, a: Any) -> Any:
        if is_absent(p):
            return p
        cut = cut_of(p, tuple(map(segment, keys)), a) if is_cut_anywhere(p) else None
        if a == WHOLE:
            return jax.tree.map(lambda x: placed(x, p, cut, a), make(p.shape, p))
        parts = []
        for count, rows, columns in a.shapes(p.shape):
            stack = () if count == 1 else (count,)
            made = make((rows, columns), p)
            parts.append(jax.tree.map(lambda x, stack=stack: placed(x, p, cut, a, stack), made))
        return parts[0] if len(parts) == 1 else tuple(parts)

    try:
        return jax.tree_util.tree_map_with_path(one, params, axes, is_leaf=is_absent)
    except (ValueError, AttributeError):
        structures: list[Any] = [jax.tree.structure(t, is_leaf=is_none) for t in (params, axes)]
        if structures[0] == structures[1]:
            raise
        raise ValueError(
            "init_per_matrix: argument 'axes' must be a tree like 'params'; got "
            f"{describe(axes)} for {describe(params)}"
        ) from None


def check_per_matrix(
    make: Callable[[tuple[int, ...], Any], Any], axes: Any, updates: Any, **states: Any
) -> None:
    """Raises ValueError naming the first leaf of the updates for which a state is not what `make` made."""
    flat, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    wanted = jax.eval_shape(lambda g: init_per_matrix(make, axes, g), updates)
    for name, state in states.items():
        pairs = zip(flat, at_leaves(structure, wanted), at_leaves(structure, state), strict=True)
        for (path, g), expected, own in pairs:
            if g is not None and _shapes(expected) != _shapes(own):
                raise ValueError(
                    f"{stage_name()}: the update at {show(path_string(path))} of shape {g.shape} needs a "
                    f"state '{name}' of shapes {_shapes(expected)}; it has {_shapes(own)}"
                )


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def keys_per_matrix(keys: Any, axes: Any, updates: Any) -> Any:
    """A tree for `per_matrix` of one PRNG key a matrix, from one key a leaf of the updates."""

    def one(g: Any, a: Any, key: Any) -> Any:
        if is_absent(g) or a == WHOLE:
            return key
        parts = a.shapes(g.shape)
        own = [key] if len(parts) == 1 else list(jax.random.split(key, len(parts)))
        stacks = [
            k if count == 1 else jax.random.split(k, count)
            for k, (count, _, _) in zip(own, parts, strict=True)
        ]
        return stacks[0] if len(stacks) == 1 else tuple(stacks)

    return jax.tree.map(one, updates, axes, keys, is_leaf=is_absent)

"""One rule for one matrix over trees of leaves that are matrices, stacks of them, or cut into them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from gradflow._calls._checks import refuse_coded
from gradflow._calls._context import context
from gradflow._coding._leaves import decoded, is_coded
from gradflow._dtypes import in_dtype_of
from gradflow._kernel_hints._order import in_turn
from gradflow._rules._leafwise import Rule, Scalars, prepare_scalars
from gradflow._rules._mesh_axes import refuse_varying
from gradflow.matrices._blocks import bound, on_blocks, on_stacks
from gradflow.matrices._exchange import Run, call_spread
from gradflow.matrices._loops import call_in_loops, in_loop
from gradflow.matrices._matrix import WHOLE, MatrixAxes
from gradflow.matrices._operands import at_leaves, precision_of, put_back, whole, widened
from gradflow.matrices._spread import Cut, cut_of, factor_cut, is_cut_anywhere
from gradflow.tree._grouped_jit import LeafTuple, call_in_groups, is_traced
from gradflow.tree._paths import is_none, segment


def per_matrix(
    rule: Rule,
    axes: Any,
    trees: tuple[Any, ...],
    scalars: Callable[..., Scalars] | None = None,
    /,
    *,
    in_loops: bool = False,
    turns: bool = True,
    in_order: bool = False,
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
      turns: with `in_loops`, one GPU takes one leaf after the other. A rule that only reads large arrays
        beside the updates needs no turns: they would copy these.
      in_order: without loops, the updates of a leaf wait on one GPU for the results of the leaf before, and
        so does all that a rule computes from them. What it only reads is not copied.

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
        numbers = prepare_scalars(scalars, hyper, precision)
        flat_rows = [tuple(jax.tree.leaves(rows[i])) for i in indices]
        if like is None:
            loops = functools.partial(call_in_loops, turns=turns)
            call = loops if in_loops else _call_in_order if in_order else call_in_groups
            run = _compiled(rule, a, kind, context.stacks is not None)
            results: Any = call(run, flat_rows, numbers)
        else:
            shape = rows[indices[0]][0].shape
            results = call_spread(_on_stacks(rule, kind), like[0], a, shape, flat_rows, like[1], numbers)
            results = [_as_rows(kind, result) for result in results]
        for index, result in zip(indices, results, strict=True):
            outputs[index] = result
    width = min((len(out) for out in outputs), default=len(trees))
    slots = [list(slot) for slot in zip(*(out[:width] for out in outputs), strict=True)]
    return tuple(jax.tree.unflatten(structure, slot) for slot in slots or [[]] * width)


def _call_in_order(run: Callable[..., Any], rows: list[LeafTuple], shared: Scalars) -> list[Any]:
    if not is_traced(rows):
        return call_in_groups(run, rows, shared)
    results: list[Any] = []
    for g, *others in rows:
        if results:
            before, structure = jax.tree.flatten(results[-1])
            before, (g,) = in_turn(before, [g])
            results[-1] = jax.tree.unflatten(structure, before)
        results.append(run((g, *others), shared))
    return results


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
def _compiled(rule: Rule, axes: MatrixAxes, structure: Any, in_stack: bool) -> Callable[..., tuple[Any, ...]]:
    """The rule on a row of leaves, each with all its matrices, as one jitted function."""
    each = in_loop if in_stack else jax.vmap

    def run(leaves: tuple[jax.Array, ...], scalars: Scalars) -> tuple[Any, ...]:
        real = precision_of(list(leaves))
        olds = structure.unflatten(leaves)
        values = jax.tree.map(lambda x: whole(widened(x, real)), decoded(olds))
        shape = values[0].shape
        with jax.numpy_dtype_promotion("standard"):
            results = on_blocks(bound(rule, scalars), axes, shape, values, each)
        return tuple(put_back(shape, result, old) for result, old in zip(results, olds, strict=False))

    run.__name__ = run.__qualname__ = getattr(rule, "__name__", "rule")
    return jax.jit(run)


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


def _as_rows(kind: Any, arrays: tuple[jax.Array, ...]) -> tuple[Any, ...]:
    """Results as trees like the first ones of a row."""
    trees, rest = [], list(arrays)
    for child in kind.children():
        if len(rest) < child.num_leaves:
            break
        trees.append(jax.tree.unflatten(child, rest[: child.num_leaves]))
        rest = rest[child.num_leaves :]
    return tuple(trees)

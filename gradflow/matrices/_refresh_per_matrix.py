"""Decompositions of many matrices in one conditional."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from gradflow._calls._context import context
from gradflow._coding._leaves import decoded
from gradflow._rules._leafwise import Rule, Scalars, prepare_scalars
from gradflow._shardings import with_sharding_of
from gradflow.linalg._refresh import finite_or_old, only_where
from gradflow.matrices._blocks import bound, on_blocks, on_stacks
from gradflow.matrices._exchange import Run, call_spread
from gradflow.matrices._loops import call_in_loops, in_loop
from gradflow.matrices._matrix import MatrixAxes
from gradflow.matrices._operands import at_leaves, precision_of, put_back, put_back_exchanged, whole, widened
from gradflow.matrices._per_matrix import is_leaf_shaped, spread_cut
from gradflow.matrices._spread import Cut, is_cut_anywhere
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._paths import is_none, segment

Row = tuple[tuple[Any, ...], tuple[Any, ...]]
Each = Callable[[Callable[..., Any]], Callable[..., Any]]  # of a rule on a row, the rule on stacks
Rows = Callable[[list[tuple[jax.Array, ...]], Scalars], list[Any]]

_SIDE_AXES = 2  # of a side's array; one more counts matrices


def refresh_per_matrix(
    rule: Rule | None,
    axes: Any,
    due: Any,
    updates: Any,
    olds: tuple[Any, ...],
    operands: tuple[Any, ...],
    /,
    *,
    of_side: Rule | None = None,
    stays_finite: bool = False,
    **hyper: Any,
) -> tuple[Any, ...]:
    """`linalg.refresh` for the matrices of leaves: `olds`, or where `due` what `rule` makes of them.

    `rule(*olds, *operands, s) -> news` is a rule as in `per_matrix`, for trees as there; `updates` has the
    shapes of the leaves and None where there is no update. All matrices are in one conditional, one after the
    other. A matrix whose new values are not all finite keeps its old ones. With `stays_finite` the rule sees
    to that itself, and what it has replaced need not be kept until the last of its values is known.

    On a CPU leaves of one shape are a loop, so that XLA compiles their decompositions once. With `of_side`
    all sides of one length are a loop, whatever the shapes of their leaves. The last tree of `olds` and of
    `operands` then has a square matrix or None for each side. `of_side(old, operand, s)` returns a tuple of
    what takes the old one's place and at most one more array, and keeps them finite itself. The rule is for
    the other trees of `olds`, or None; in the operand's place it gets the rest of each side's tuple. With
    `after=0.0` an accelerator orders the sides by that number, on which a conditional of `of_side` depends.
    """
    structure: Any = jax.tree.structure(updates, is_leaf=is_none)
    flat = jax.tree.leaves(updates, is_leaf=is_none)
    own = at_leaves(structure, axes)
    paths = _paths(updates) if any(is_cut_anywhere(g) for g in flat if g is not None) else []
    column_of = functools.partial(at_leaves, structure)
    before = list(zip(*map(column_of, olds), strict=True))
    others = list(zip(*map(column_of, operands), strict=True))
    places: dict[Any, list[int]] = {}
    rows: dict[int, Row] = {}
    for index, (a, g) in enumerate(zip(own, flat, strict=True)):
        if g is None or not g.size:
            continue
        leaves = jax.tree.leaves((before[index], others[index]))
        if not jax.tree.leaves(before[index]):
            continue
        real = precision_of(leaves)
        cut = spread_cut(g, paths[index], a, (*before[index], *others[index])) if paths else None
        plain = decoded((before[index], others[index]))
        place = whole if cut is None else lambda x: x
        row = jax.tree.map(lambda x, real=real, place=place: place(widened(x, real)), plain)
        places.setdefault((a, g.shape, real, jax.tree.structure(row), cut), []).append(index)
        rows[index] = row
    each = in_loop if context.stacks is not None else _mapped
    groups = []
    for (a, shape, real, _, cut), indices in places.items():
        if cut is not None:
            composed = rule if of_side is None else _composed(rule, of_side, len(olds))
            run = _Run(functools.partial(_spread, composed, a, shape, cut), None)
        else:
            checks = of_side is None and not stays_finite
            compiled = functools.partial(_compiled, rule, a, shape, of_side is None, checks, each)
            run = _Run(compiled, of_side)
        groups.append((run, prepare_scalars(None, hyper, real), indices))
    if not groups:
        return olds
    runs = tuple(run for run, _, _ in groups)
    news = only_where(
        due,
        functools.partial(_computed, runs, each),
        [[rows[i][0] for i in indices] for _, _, indices in groups],
        [[rows[i][1] for i in indices] for _, _, indices in groups],
        [numbers for _, numbers, _ in groups],
    )
    results = list(before)
    for (*_, cut), (_, _, indices), made in zip(places, groups, news, strict=True):
        for index, new in zip(indices, made, strict=True):
            back = put_back if cut is None else put_back_exchanged
            shape, olds_here = flat[index].shape, before[index]
            results[index] = tuple(back(shape, x, old) for x, old in zip(new, olds_here, strict=True))
    return tuple(jax.tree.unflatten(structure, list(slot)) for slot in zip(*results, strict=True))


class _Run(NamedTuple):
    """A rule on rows of one structure, and one that computes something of each side before."""

    on: Callable[[Any], Rows]
    of_side: Rule | None


def _computed(
    runs: tuple[_Run, ...], each: Each, olds: list[Any], operands: list[Any], numbers: list[Scalars]
) -> list[Any]:
    results = []
    sides = _sides_computed(runs, each, olds, operands, numbers)
    for run, old, other, s, made in zip(runs, olds, operands, numbers, sides, strict=True):
        if run.of_side is not None:
            # What a side keeps is written where the old matrix was, so nothing after it may read that.
            old = [row[:-1] for row in old]
            other = [(*row[:-1], rest) for row, (_, rest) in zip(other, made, strict=True)]
        rows = list(zip(old, other, strict=True))
        news: list[Any] = old
        if jax.tree.leaves(old):
            call = run.on(jax.tree.structure(rows[0]))
            news = call([tuple(jax.tree.leaves(row)) for row in rows], s)
        if run.of_side is not None:
            news = [(*row, kept) for row, (kept, _) in zip(news, made, strict=True)]
        results.append(news)
    return results


def _sides_computed(
    runs: tuple[_Run, ...], each: Each, olds: list[Any], operands: list[Any], numbers: list[Scalars]
) -> list[list[tuple[Any, Any]]]:
    """For each row of a run what its sides keep, and a tree of what else is computed of them."""
    sides: dict[Any, list[tuple[jax.Array, jax.Array]]] = {}
    shared: dict[Any, Scalars] = {}
    places: list[Any] = []
    for run, old, other, s in zip(runs, olds, operands, numbers, strict=True):
        if run.of_side is None:
            continue
        for olds_of_row, operands_of_row in zip(old, other, strict=True):
            pairs = list(zip(*map(jax.tree.leaves, (olds_of_row[-1], operands_of_row[-1])), strict=True))
            key = (run.of_side, tuple(sorted({str(pair[0].dtype) for pair in pairs})))
            own = sides.setdefault(key, [])
            places.append((key, range(len(own), len(own) + len(pairs))))
            own += pairs
            shared[key] = s
    made = {key: call_in_loops(_on_side(key[0], each), rows, shared[key]) for key, rows in sides.items()}
    order = iter(places)

    def parted(row: tuple[Any, ...]) -> tuple[Any, Any]:
        key, own = next(order)
        structure: Any = jax.tree.structure(row[-1])
        results = [made[key][i] for i in own]
        return structure.unflatten([x[0] for x in results]), structure.unflatten([x[1:] for x in results])

    return [
        [] if run.of_side is None else [parted(row) for row in other]
        for run, other in zip(runs, operands, strict=True)
    ]


@functools.cache
def _on_side(of_side: Rule, each: Each) -> Callable[..., tuple[jax.Array, ...]]:
    """A rule of one side on that of one matrix or of a stack of them."""

    def run(leaves: tuple[jax.Array, ...], scalars: Scalars) -> tuple[jax.Array, ...]:
        call = bound(of_side, scalars)
        with jax.numpy_dtype_promotion("standard"):
            return (call if leaves[0].ndim == _SIDE_AXES else each(call))(*leaves)

    run.__name__ = run.__qualname__ = getattr(of_side, "__name__", "of_side")
    return jax.jit(run)


@functools.cache
def _composed(rule: Rule | None, of_side: Rule, width: int) -> Rule:
    """The rule of matrices with what it needs of their sides; its first `width` operands are old."""

    def whole_rule(*values: Any) -> Any:
        *others, operand, s = values
        sides = zip(others[width - 1], operand, strict=True)
        made = [None if old is None else of_side(old, new, s) for old, new in sides]
        rest = tuple(None if own is None else own[1:] for own in made)
        news = () if rule is None else rule(*others[: width - 1], *others[width:], rest, s)
        kept = tuple(None if own is None else own[0] for own in made)
        return (*(news if isinstance(news, tuple) else (news,)), kept)

    return whole_rule


def _paths(updates: Any) -> list[tuple[str, ...]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    return [tuple(map(segment, keys)) for keys, _ in flat]


@functools.cache
def _compiled(
    rule: Rule,
    axes: MatrixAxes,
    shape: tuple[int, ...],
    decomposes: bool,
    checks: bool,
    each: Each,
    structure: Any,
) -> Rows:
    """The rule on rows of olds and operands, one matrix after the other where it decomposes them."""

    def run(leaves: tuple[jax.Array, ...], scalars: Scalars) -> tuple[Any, ...]:
        olds, operands = structure.unflatten(leaves)
        call = _refreshed(rule, scalars, len(olds)) if checks else bound(rule, scalars)
        with jax.numpy_dtype_promotion("standard"):
            return on_blocks(call, axes, shape, [*olds, *operands], each)

    run.__name__ = run.__qualname__ = getattr(rule, "__name__", "rule")
    return functools.partial(call_in_loops if decomposes else call_in_groups, jax.jit(run))


@functools.cache
def _spread(rule: Rule, axes: MatrixAxes, shape: tuple[int, ...], cut: Cut, structure: Any) -> Rows:
    """The same, each device with matrices of its own."""
    on_each = _on_stacks(rule, structure)

    def run(rows: list[tuple[jax.Array, ...]], scalars: Scalars) -> list[Any]:
        olds, operands = structure.unflatten(rows[0])
        is_leaf = is_leaf_shaped((*olds, *operands), shape)
        made = call_spread(on_each, cut, axes, shape, rows, is_leaf, scalars)
        first = jax.tree.structure(olds)
        laid = [map(with_sharding_of, new, row) for new, row in zip(made, rows, strict=True)]
        return [jax.tree.unflatten(first, tuple(row)) for row in laid]

    return run


@functools.cache
def _on_stacks(rule: Rule, structure: Any) -> Run:
    """The rule on stacks (count, ...) of whole matrices and of what belongs to them."""

    def of(axes: MatrixAxes, sides: tuple[int, ...]) -> Callable[..., tuple[jax.Array, ...]]:
        def run(leaves: tuple[jax.Array, ...], scalars: Scalars) -> tuple[jax.Array, ...]:
            olds, operands = structure.unflatten(leaves)
            values = [*olds, *operands]
            with jax.numpy_dtype_promotion("standard"):
                results = on_stacks(_refreshed(rule, scalars, len(olds)), axes, sides, values, _mapped)
            return tuple(jax.tree.leaves(results))

        return run

    return of


def _refreshed(rule: Rule, scalars: Scalars, width: int) -> Callable[..., tuple[Any, ...]]:
    """The rule on the values of one matrix, the first of which are the old ones."""

    def call(*values: Any) -> tuple[Any, ...]:
        compute = finite_or_old(lambda old, *others: bound(rule, scalars)(*old, *others))
        return compute(values[:width], *values[width:])

    return call


def _mapped(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: jax.lax.map(lambda row: call(*row), values)

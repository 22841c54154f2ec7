"""One per-leaf rule over many trees, traced once per type of leaf."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from gradflow._calls._checks import check_like, refuse_coded
from gradflow._calls._context import stage_name
from gradflow._calls._scalars import for_joined_leaves, parts_of_a_kernel, record_scalars
from gradflow._coding._leaves import is_coded, is_entry
from gradflow._dtypes import compute_dtype, in_dtype_of, promote, real_dtype
from gradflow._kernel_hints._joining import fused_last
from gradflow._rules._quantized import run_quantized
from gradflow._rules._traced_once import evaluate, is_traced_once
from gradflow._shardings import with_sharding_of
from gradflow._types import is_absent
from gradflow.tree._grouped_jit import call_in_groups
from gradflow.tree._paths import path_string, show

Rule = Callable[..., Any]
Scalars = dict[str, jax.Array]

# Numbers of the leaves that share a kernel. On an H100, launches take half the time of adamw on leaves of 1.3
# million numbers. On leaves of 15 million a shared kernel saved nothing. Gradients that share one are kept
# until the last: without a limit, scratch of a network grew by 3 %, after a norm by 6 % of its 32 MB.
_SHARED_KERNEL = 2**22


def leafwise(
    rule: Rule,
    trees: tuple[Any, ...],
    scalars: Callable[..., Scalars] | None = None,
    /,
    *,
    shapes: bool = True,
    summed: bool = False,
    **hyper: Any,
) -> tuple[Any, ...]:
    """Applies `rule` to the leaves of `trees`, which share one structure.

    `rule(g, *others, s) -> (u, *news)` is a pure module-level function of one leaf. Its operands have one
    precision of at least 32 bits. `u` is returned in the dtype of `g`, the k-th of `news` in the dtype of
    the k-th of `others`; further `others` are only read. Where `g` is None there is no update: `u` is None
    and the others stay as they are. A coded leaf is decoded inside the compiled rule, and the new value is
    coded like it, so no decoded copy is written.

    `s` has the numbers of `hyper` as attributes, in the precision of the leaf. Integers, such as a step
    count, stay integers. It also has what the module-level `scalars(**hyper) -> dict` derives from them,
    once per precision. Scalars are operands of the compiled rule, never constants in it.

    `shapes=False` is for state whose shapes are not those of the gradients, such as one scalar per leaf.
    `summed=True` is for results that are summed next: a GPU writes them in place, one leaf per kernel.

    Returns as many trees as the rule returns values. Raises ValueError naming the first leaf where
    structures or shapes differ.
    """
    for tree in trees[1:]:
        check_like("updates", trees[0], "state", tree, shapes=shapes)
    columns, structures = _flatten(trees)
    run = _compiled(rule)
    outputs: list[tuple[Any, ...]] = [()] * len(columns[0])
    absent: list[int] = []
    kinds: dict[tuple[np.dtype, bool], list[int]] = {}
    rows = list(zip(*columns, strict=True))
    for index, leaves in enumerate(rows):
        if is_absent(leaves[0]):
            absent.append(index)
        else:
            size = leaves[0].size
            # The size of a symbolic shape, as in an exported program, cannot be compared with a number.
            joins = not summed and isinstance(size, int) and 2 * size <= _SHARED_KERNEL
            kinds.setdefault((_precision(leaves), joins), []).append(index)
    for (precision, joins), places in kinds.items():
        numbers = prepare_scalars(scalars, hyper, precision)
        parts, operands = [places], [numbers]
        cut = parts_of_a_kernel(rows[places[0]][0]) if joins else 0
        if cut:
            parts = _parts(rows, places, _SHARED_KERNEL // cut)
            operands = for_joined_leaves(numbers, precision, len(parts))
        for part, own in zip(parts, operands, strict=True):
            results = _on_rows(rule, run, [rows[index] for index in part], own)
            for index, result in zip(part, results, strict=True):
                outputs[index] = result
    width = max(map(len, outputs), default=0) or _width(rule, scalars, hyper, len(trees))
    for index in absent:
        outputs[index] = tuple([column[index] for column in columns[:width]])
    slots = zip(*outputs, strict=True) if outputs else [[]] * width
    unflatten = jax.tree.unflatten
    return tuple([unflatten(s, list(slot)) for s, slot in zip(structures[:width], slots, strict=True)])


# A rule that is traced once is quicker put into the program for so few leaves of a type than called.
_FEW = 2


def _on_rows(
    rule: Rule, run: Callable[..., Any], rows: list[tuple[Any, ...]], scalars: Scalars
) -> list[tuple[Any, ...]]:
    """`run` of each row; for few rows of a type, without a call in the program that is being traced."""
    if not is_traced_once(rule) or not all(map(_is_staged, rows)):
        return call_in_groups(run, rows, scalars)
    types = [tuple([(leaf.shape, leaf.dtype) for leaf in row]) for row in rows]
    counts = Counter(types)
    rest = [row for row, own in zip(rows, types, strict=True) if counts[own] > _FEW]
    called = iter(call_in_groups(run, rest, scalars))
    whole = _whole(rule)
    return [
        next(called) if counts[own] > _FEW else whole(row, scalars)
        for row, own in zip(rows, types, strict=True)
    ]


def _is_staged(leaves: tuple[Any, ...]) -> bool:
    """Whether operations on a leaf become part of a program, rather than being executed one by one."""
    return not any(map(is_coded, leaves)) and type(leaves[0]) is _tracer_of_programs()


@functools.cache
def _tracer_of_programs() -> type:
    """The type of values whose operations become part of a program; those of `vmap` and `jvp` have others."""
    found: list[type] = []
    jax.make_jaxpr(lambda x: found.append(type(x)))(0.0)
    return found[0]


def _parts(rows: list[tuple[Any, ...]], places: list[int], shared: int = _SHARED_KERNEL) -> list[list[int]]:
    """The places in parts, each with as many leaves of a shape as share a kernel of `shared` numbers.

    The last ones come first: a backward pass makes their gradients first.
    """
    parts: list[list[int]] = []
    counts: dict[tuple[int, ...], int] = {}
    for index in reversed(places):
        leaf = rows[index][0]
        count = counts.get(leaf.shape, 0)
        counts[leaf.shape] = count + 1
        part = count // max(1, shared // max(1, leaf.size))
        if part == len(parts):
            parts.append([])
        parts[part].insert(0, index)
    return parts


def _flatten(trees: tuple[Any, ...]) -> tuple[list[list[Any]], list[Any]]:
    """The leaves of each tree in one order, and its structure. None is a leaf where trees differ."""
    columns, structures = zip(*map(jax.tree.flatten, trees), strict=True)
    if structures.count(structures[0]) == len(structures):
        return list(columns), list(structures)
    flattened = [jax.tree.flatten(tree, is_leaf=is_entry) for tree in trees]
    columns, structures = zip(*flattened, strict=True)
    for index, leaves in enumerate(zip(*columns, strict=True)):
        if any(map(is_coded, leaves)):
            refuse_coded()
        if not is_absent(leaves[0]) and any(map(is_absent, leaves)):
            paths = [p for p, _ in jax.tree_util.tree_leaves_with_path(trees[0], is_leaf=is_absent)]
            raise ValueError(
                f"{stage_name()}: there is a gradient at {show(path_string(paths[index]))}, where params or "
                "state have None"
            )
    return list(columns), list(structures)


def _precision(leaves: tuple[Any, ...]) -> np.dtype:
    """The real dtype of the scalars for these leaves."""
    return _common_precision(tuple([leaf.dtype for leaf in leaves]))


@functools.lru_cache(maxsize=1024)
def _common_precision(dtypes: tuple[np.dtype, ...]) -> np.dtype:
    return real_dtype(functools.reduce(promote, map(compute_dtype, dtypes)))


@functools.lru_cache(maxsize=1024)
def _arithmetic(rule: Rule) -> Callable[[Sequence[Any], Scalars], tuple[Any, ...]]:
    """The rule on operands of one width."""

    def arithmetic(arrays: Sequence[Any], scalars: Scalars) -> tuple[Any, ...]:
        # All operands have one width, so standard promotion can only combine real with complex.
        with jax.numpy_dtype_promotion("standard"):
            results = rule(*arrays, SimpleNamespace(**scalars))
        return results if isinstance(results, tuple) else (results,)

    return arithmetic


@functools.lru_cache(maxsize=1024)
def _whole(rule: Rule) -> Callable[[tuple[Any, ...], Scalars], tuple[Any, ...]]:
    """The rule on a leaf: operands are widened, results are cast back."""
    arithmetic, is_marked = _arithmetic(rule), is_traced_once(rule)

    def whole(leaves: tuple[Any, ...], scalars: Scalars) -> tuple[Any, ...]:
        real = _precision(leaves)
        plain = [x.decode() if is_coded(x) else x for x in leaves]
        wide = [_in_dtype(x, promote(x.dtype, real)) for x in plain]
        results = evaluate(arithmetic, wide, scalars) if is_marked else None
        if results is None:
            results = arithmetic(wide, scalars)
        return tuple([_narrow(result, like) for result, like in zip(results, leaves, strict=False)])

    return whole


def _in_dtype(x: jax.Array, dtype: np.dtype) -> jax.Array:
    return x if x.dtype == dtype else x.astype(dtype)


@functools.lru_cache(maxsize=1024)
def _compiled(rule: Rule) -> Callable[[tuple[Any, ...], Scalars], tuple[Any, ...]]:
    """The rule as one jitted function."""
    arithmetic, whole = _arithmetic(rule), _whole(rule)

    def run(leaves: tuple[Any, ...], scalars: Scalars) -> tuple[Any, ...]:
        if any(map(is_coded, leaves)):
            return run_quantized(arithmetic, whole, leaves, scalars)
        return whole(leaves, scalars)

    run.__name__ = run.__qualname__ = getattr(rule, "__name__", "rule")
    return jax.jit(run)


def _narrow(x: jax.Array, like: Any) -> Any:
    """`x` in the dtype, the code and the sharding of `like`."""
    return like.encode(x) if is_coded(like) else with_sharding_of(in_dtype_of(x, like), like)


def _width(rule: Rule, scalars: Any, hyper: dict[str, Any], count: int) -> int:
    """How many trees a rule returns, for trees without leaves."""
    precision = np.dtype(np.float32)
    kinds = tuple((name, as_scalar(value, precision).dtype) for name, value in hyper.items())
    return _width_of(rule, scalars, kinds, count)


@functools.lru_cache(maxsize=1024)
def _width_of(rule: Rule, scalars: Any, kinds: tuple[tuple[str, np.dtype], ...], count: int) -> int:
    example = jax.ShapeDtypeStruct((), np.float32)
    numbers: Any = {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in kinds}
    if scalars is not None:
        numbers = {**numbers, **jax.eval_shape(_compiled_scalars(scalars), numbers)}
    return len(jax.eval_shape(_compiled(rule), (example,) * count, numbers))


def prepare_scalars(scalars: Any, hyper: dict[str, Any], precision: np.dtype) -> Scalars:
    numbers = {name: as_scalar(value, precision) for name, value in hyper.items()}
    if scalars is not None:
        numbers |= _compiled_scalars(scalars)(numbers)
    record_scalars(numbers.values())
    computed = [
        name for name, x in numbers.items() if isinstance(x, jax.core.Tracer) and x.dtype == precision
    ]
    if not computed:
        return numbers
    return {**numbers, **dict(zip(computed, fused_last([numbers[name] for name in computed]), strict=True))}


def as_scalar(value: Any, precision: np.dtype) -> Any:
    """A number, array or tracer as a strongly typed scalar; arrays of int32, step counts, stay so."""
    if not isinstance(value, jax.Array):
        return np.asarray(value, precision)
    is_count = isinstance(value.dtype, np.dtype) and value.dtype == np.int32
    if is_count or (value.dtype == precision and not value.weak_type):
        return value
    return value.astype(precision)


@functools.lru_cache(maxsize=1024)
def specialize(rule: Rule, **options: Any) -> Rule:
    """A rule with keyword options bound. Equal options give the same function, so it is compiled once."""
    return functools.update_wrapper(functools.partial(rule, **options), rule)


@functools.lru_cache(maxsize=1024)
def _compiled_scalars(scalars: Callable[..., Scalars]) -> Callable[[Scalars], Scalars]:
    def run(numbers: Scalars) -> Scalars:
        return scalars(**numbers)

    run.__name__ = run.__qualname__ = getattr(scalars, "__name__", "scalars")
    return jax.jit(run)

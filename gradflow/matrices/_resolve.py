"""A specification of matrices as a tree of axes, leaf by leaf."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from gradflow._calls._context import context, stage_name
from gradflow._checked import FLAG, SHAPED, Number, checked
from gradflow._errors import describe
from gradflow._selection._parameters import named_leaves
from gradflow._selection._stacks import per_leaf
from gradflow._types import MaskedNode, is_absent
from gradflow.matrices._matrix import MATRIX, WHOLE, Matrix, MatrixAxes, read_axes
from gradflow.tree._paths import is_none, longest_prefix, path_string, segment, show


class ResolvedMatrix(NamedTuple):
    """One leaf that a stage takes as matrices: the stage, the leaf's path and shape, and its axes."""

    stage: str
    path: tuple[str, ...]
    shape: tuple[int, ...]
    axes: MatrixAxes


@contextmanager
def recording_matrices() -> Iterator[list[ResolvedMatrix]]:
    """Collects the leaves that stages take as matrices in this block."""
    found: list[ResolvedMatrix] = []
    before = context.matrices
    context.matrices = found
    try:
        yield found
    finally:
        context.matrices = before


def _in_stacks(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a tree of leaves that gives axes; inside `stacked`, of the axes in stacks of them."""

    @functools.wraps(resolve)
    def of_stacks(numbers: Any, params: Any, *args: Any, **options: Any) -> Any:
        if context.stacks is None:
            return resolve(numbers, params, *args, **options)
        axes = per_leaf(lambda leaves: resolve(numbers, leaves, *args, **options), params)
        return jax.tree.map(lambda a: a.in_stack() if isinstance(a, MatrixAxes) else a, axes)

    return of_stacks


@checked(params=SHAPED, at_least=Number(0, whole=True), record=FLAG)
@_in_stacks
def resolve_matrices(
    numbers: Any, params: Any, kind: type = Matrix, *, at_least: int = 0, record: bool = True
) -> Any:
    """A tree like `params` of `MatrixAxes`, and None for leaves that are not matrices.

    `numbers` is None (leaves of two axes are matrices), one `Matrix` or `kind` for all leaves, a tree of
    them, of which a prefix will do and None says that a leaf is not a matrix, or a function from params to
    such a tree, as `choose_matrices` makes. Only paths count. Leaves of fewer axes than `at_least` are not
    matrices. Raises TypeError for what is none of these, ValueError naming the leaf for axes that it does not
    have and for a leaf left out. With `record`, `recording_matrices` sees the result.
    """
    if callable(numbers) and not isinstance(numbers, type) and jax.tree_util.all_leaves([numbers]):
        numbers = numbers(params)
    flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_absent)
    if numbers is None:
        own = [p if is_absent(p) else MATRIX if p.ndim == 2 else None for _, p in flat]
        return _recorded(jax.tree.unflatten(structure, own), params, record)
    kinds = (Matrix, kind, MaskedNode)
    given: dict[tuple[str, ...], Any] = {}
    for path, spec in jax.tree_util.tree_flatten_with_path(
        numbers, is_leaf=lambda x: is_none(x) or isinstance(x, kinds)
    )[0]:
        if spec is not None and not isinstance(spec, kinds):
            raise TypeError(
                f"{stage_name()}: dimension numbers must be {kind.__name__} or None; got {describe(spec)} at "
                f"{show(path_string(path))}"
            )
        given[tuple(map(segment, path))] = spec
    resolved: list[Any] = []
    for path, leaf in flat:
        names = tuple(map(segment, path))
        prefix = longest_prefix(names, given)
        if is_absent(leaf):
            resolved.append(leaf)
            continue
        if prefix is None:
            raise ValueError(
                f"{stage_name()}: dimension numbers must cover every parameter; got none for the one at "
                f"{show('/'.join(names))}. Use None for a parameter that is not a matrix."
            )
        spec = given[prefix] if leaf.ndim >= at_least else None
        is_matrix = spec is not None and not isinstance(spec, MaskedNode)
        resolved.append(read_axes(spec, leaf, show("/".join(names))) if is_matrix else None)
    return _recorded(jax.tree.unflatten(structure, resolved), params, record)


@checked(params=SHAPED)
@_in_stacks
def require_matrices(numbers: Any, params: Any, kind: type = Matrix) -> Any:
    """`resolve_matrices`, raising ValueError that names the first leaf that is not a matrix."""
    axes = resolve_matrices(numbers, params, kind)
    for (path, a), p in zip(
        jax.tree_util.tree_flatten_with_path(axes, is_leaf=is_absent)[0],
        jax.tree.leaves(params, is_leaf=is_absent),
        strict=True,
    ):
        if a is None and p is not None:
            raise ValueError(
                f"{stage_name()}: every parameter must be a matrix; got shape {p.shape} at "
                f"{show(path_string(path))}. Name its axes with gradflow.Matrix, or use for_matrices, which "
                "has another optimizer for it."
            )
    return axes


@_in_stacks
def tensors(numbers: Any, params: Any) -> Any:
    """`WHOLE` for each leaf where `numbers` is None, and `require_matrices` where something is said."""
    if numbers is None:
        return jax.tree.map(lambda p: p if is_absent(p) else WHOLE, params, is_leaf=is_absent)
    return require_matrices(numbers, params)


def _recorded(axes: Any, params: Any, record: bool) -> Any:
    if record and context.matrices is not None:
        own = jax.tree.leaves(axes, is_leaf=is_absent)
        for parameter, a in zip(named_leaves(params)[0], own, strict=True):
            if isinstance(a, MatrixAxes):
                shape = tuple(parameter.leaf.shape)
                context.matrices.append(ResolvedMatrix(stage_name(), parameter.path, shape, a))
    return axes

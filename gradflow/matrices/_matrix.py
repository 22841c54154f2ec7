"""What a matrix is: which axes of a leaf are its inputs and its outputs, and into which blocks it is cut."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._context import stage_name
from gradflow._checked import AXES, BLOCKS, MAPPING
from gradflow._expressions._registry import register_record
from gradflow._types import is_absent


@register_record
class Matrix(NamedTuple):
    """Which axes of a leaf a matrix takes and gives. The axes not named count matrices.

        Matrix()                           a kernel (in, out)
        Matrix(1, 2)                       kernels of scanned layers or experts, (layers, in, out)
        Matrix(0, 2)                       one matrix a head of a kernel (in, heads, dim)
        Matrix((0, 1, 2), 3)               a kernel of a convolution, (height, width, in, out)
        Matrix(split={1: 8})               eight equal blocks of columns, such as heads
        Matrix(split={1: (256, 64, 64)})   blocks of these sizes, such as queries, keys and values

    - `inputs`, `outputs`: an axis or several, which together are the matrix's rows or columns.
    - `split`: for an axis among them how many equal blocks it has, or their sizes. Each block is a matrix.
    """

    inputs: Sequence[int] | int = 0
    outputs: Sequence[int] | int = 1
    split: Mapping[int, int | Sequence[int]] | None = None


@dataclasses.dataclass(frozen=True)
class MatrixAxes:
    """The axes of a leaf that are a matrix's rows and columns; the others count matrices.

    `split` has the sizes of the blocks of an axis, for the axes that are cut. The axes and sizes of
    `WHOLE`, which are none, stand for a leaf that a rule takes as it is; `WHOLES` for a stack of such leaves.
    """

    reduction: tuple[int, ...]
    output: tuple[int, ...]
    split: tuple[tuple[int, tuple[int, ...]], ...] = ()
    counts_leaves: bool = False

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """How many numbers a matrix that is not cut takes and how many it gives."""
        return math.prod(shape[i] for i in self.reduction), math.prod(shape[i] for i in self.output)

    def batch(self, ndim: int) -> tuple[int, ...]:
        """The axes that count matrices."""
        if self.counts_leaves:
            return (0,)
        return tuple(i for i in range(ndim) if i not in self.reduction + self.output)

    def shapes(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """(number of matrices, rows, columns) of each group of equal blocks, in the order of `to_blocks`.

        For a stack of whole leaves it is the number of leaves and their sides.
        """
        if self.counts_leaves:
            return [shape]
        return [_stack_shape(block, axes) for block, axes in _blocks(shape, self)]

    def in_stack(self) -> "MatrixAxes":
        """The axes where a leaf has one more, the first, along which leaves are stacked."""
        if self == WHOLE:
            return WHOLES
        return MatrixAxes(
            tuple(axis + 1 for axis in self.reduction),
            tuple(axis + 1 for axis in self.output),
            tuple((axis + 1, sizes) for axis, sizes in self.split),
        )


MATRIX = MatrixAxes((0,), (1,))
WHOLE = MatrixAxes((), ())
WHOLES = MatrixAxes((), (), (), True)


def _blocks(shape: tuple[int, ...], axes: MatrixAxes) -> list[tuple[tuple[int, ...], MatrixAxes]]:
    """The shapes of the blocks into which unequal splits cut a leaf, and the axes with the equal ones."""
    equal = tuple((axis, sizes) for axis, sizes in axes.split if len(set(sizes)) == 1)
    own = dataclasses.replace(axes, split=equal)
    found = [shape]
    for axis, sizes in axes.split:
        if len(set(sizes)) > 1:
            found = [(*s[:axis], size, *s[axis + 1 :]) for s in found for size in sizes]
    return [(block, own) for block in found]


def _stack_shape(shape: tuple[int, ...], axes: MatrixAxes) -> tuple[int, int, int]:
    blocks = math.prod(len(sizes) for _, sizes in axes.split)
    rows, columns = axes.sizes(shape)
    for axis, sizes in axes.split:
        if axis in axes.reduction:
            rows //= len(sizes)
        else:
            columns //= len(sizes)
    count = blocks * math.prod(shape[i] for i in axes.batch(len(shape)))
    return count, rows, columns


def to_matrices(x: jax.Array, axes: MatrixAxes) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """A leaf as (..., rows, columns), and the way back. Splits must be into equal blocks."""
    if x.ndim == 2 and axes == MATRIX:
        return x, lambda y: y
    if axes.split:
        return _to_equal_blocks(x, axes)
    batch = axes.batch(x.ndim)
    order = (*batch, *axes.reduction, *axes.output)
    apart = [x.shape[i] for i in order]
    together = tuple(x.shape[i] for i in batch)
    back = tuple(order.index(i) for i in range(x.ndim))
    matrices = x.transpose(order).reshape(*together, *axes.sizes(x.shape))
    return matrices, lambda y: y.reshape(apart).transpose(back)


def _to_equal_blocks(x: jax.Array, axes: MatrixAxes) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """`to_matrices` with an axis more, which counts blocks, before each axis that is split."""
    sizes = dict(axes.split)
    places: list[int] = []
    apart: list[int] = []
    for axis, side in enumerate(x.shape):
        if axis in sizes:
            apart.append(len(sizes[axis]))
            side = sizes[axis][0]
        places.append(len(apart))
        apart.append(side)
    inner = MatrixAxes(tuple(places[i] for i in axes.reduction), tuple(places[i] for i in axes.output))
    matrices, back = to_matrices(x.reshape(apart), inner)
    return matrices, lambda y: back(y).reshape(x.shape)


def to_blocks(
    x: jax.Array, axes: MatrixAxes
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], jax.Array]]:
    """A leaf as stacks of equal matrices, (count, rows, columns) or one (rows, columns), and the way back."""
    if axes.counts_leaves:
        return [x if len(x) > 1 else x[0]], lambda stacks: stacks[0].reshape(x.shape)
    cuts = [(axis, sizes) for axis, sizes in axes.split if len(set(sizes)) > 1]
    pieces = [x]
    for axis, sizes in cuts:
        pieces = [part for piece in pieces for part in _cut(piece, axis, sizes)]
    own = dataclasses.replace(axes, split=tuple(cut for cut in axes.split if cut not in cuts))
    pairs = [to_matrices(piece, own) for piece in pieces]
    stacks = [_flat_stack(stack) for stack, _ in pairs]

    def back(stacks: list[jax.Array]) -> jax.Array:
        parts = [restore(y.reshape(like.shape)) for y, (like, restore) in zip(stacks, pairs, strict=True)]
        for axis, sizes in reversed(cuts):
            n = len(sizes)
            parts = [jnp.concatenate(parts[i : i + n], axis) for i in range(0, len(parts), n)]
        return parts[0]

    return stacks, back


def _flat_stack(x: jax.Array) -> jax.Array:
    """(count, rows, columns), or (rows, columns) for one: a batch of one costs twice the plain product."""
    count = math.prod(x.shape[:-2])
    return x.reshape(x.shape[-2:] if count == 1 else (count, *x.shape[-2:]))


def _cut(x: jax.Array, axis: int, sizes: tuple[int, ...]) -> list[jax.Array]:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [
        jax.lax.slice_in_dim(x, end - size, end, axis=axis) for end, size in zip(ends, sizes, strict=True)
    ]


def read_axes(spec: Any, leaf: Any, path: str) -> MatrixAxes:
    """One leaf's axes, counted from the first; ValueError naming the leaf for axes it does not have."""
    _check_fields(spec, path)
    inputs, outputs = (((a,) if isinstance(a, int) else tuple(a)) for a in spec[:2])
    axes = [*inputs, *outputs]
    wrong = [i for i in axes if not -leaf.ndim <= i < leaf.ndim]
    counted = [i % leaf.ndim for i in axes if not wrong]
    if wrong or len(set(counted)) < len(counted) or not inputs or not outputs:
        raise ValueError(
            f"{stage_name()}: dimension numbers must name different axes of the parameter at {path} of "
            f"shape {leaf.shape}; got {spec}"
        )
    first = len(inputs)
    split = _read_split(spec, leaf, path, counted) if isinstance(spec, Matrix) and spec.split else ()
    return MatrixAxes(tuple(counted[:first]), tuple(counted[first:]), split)


def _check_fields(spec: Any, path: str) -> None:
    """Raises TypeError for fields that are not axes, or a `split` that is not a dict of counts or sizes."""
    owner = f"{stage_name()}: {type(spec).__name__} of the parameter at {path}"
    for name, value in zip(spec._fields, spec[:2], strict=False):
        AXES.check(owner, name, value)
    split = getattr(spec, "split", None)
    if split is not None:
        MAPPING.check(owner, "split", split)
        for axis, parts in split.items():
            BLOCKS.check(owner, f"split[{axis}]", parts)


def _read_split(
    spec: Matrix, leaf: Any, path: str, named: list[int]
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    found: dict[int, tuple[int, ...]] = {}
    for axis, parts in (spec.split or {}).items():
        owner = f"{stage_name()}: {spec} cannot cut the parameter at {path} of shape {leaf.shape}"
        place = axis % leaf.ndim if isinstance(axis, int) and -leaf.ndim <= axis < leaf.ndim else None
        if place not in named or place in found:
            raise ValueError(f"{owner}: axis {axis} must be one of the matrix's own, and named once")
        side = leaf.shape[place]
        if isinstance(parts, int):
            if parts < 1 or side % parts:
                raise ValueError(f"{owner}: axis {axis} has {side} elements, which {parts} does not divide")
            sizes: tuple[int, ...] = (side // parts,) * parts
        else:
            sizes = tuple(parts)
            if not all(size > 0 for size in sizes):
                raise ValueError(
                    f"{owner}: blocks must have at least one element; got {sizes} on axis {axis}"
                )
            if sum(sizes) != side:
                raise ValueError(
                    f"{owner}: axis {axis} has {side} elements, and blocks of {sizes} have {sum(sizes)}"
                )
        if len(sizes) > 1:
            found[place] = sizes
    return tuple(sorted(found.items()))


def in_blocks(axes: Any, params: Any, block_size: int) -> Any:
    """Axes of matrices that are cut into blocks with sides of at most `block_size`, as equal as can be.

    Whole leaves of two axes are matrices. Those of other ranks, and matrices that are cut already or whose
    sides are several axes, stay as they are.
    """

    def one(a: Any, p: Any) -> Any:
        if a == WHOLE and p.ndim == 2:
            a = MATRIX
        elif a == WHOLES and p.ndim == 3:
            a = MATRIX.in_stack()
        if is_absent(p) or a in (WHOLE, WHOLES) or a.split or len(a.reduction) > 1 or len(a.output) > 1:
            return a
        split = [(i, _equal_sizes(p.shape[i], block_size)) for i in sorted((*a.reduction, *a.output))]
        return dataclasses.replace(a, split=tuple((i, sizes) for i, sizes in split if len(sizes) > 1))

    return jax.tree.map(one, axes, params, is_leaf=is_absent)


def _equal_sizes(side: int, block_size: int) -> tuple[int, ...]:
    number = max(1, -(-side // block_size))
    return tuple(side // number + (i < side % number) for i in range(number))

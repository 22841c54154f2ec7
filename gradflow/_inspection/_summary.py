"""summary: the size of a transformation's state by stage, without allocating it."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow import tree
from gradflow._calls._context import context
from gradflow._checked import ARRAYS, checked
from gradflow._core._call import UpdatePart
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._stage import Stage
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._tables import aligned, table
from gradflow._types import Params
from gradflow.matrices._resolve import ResolvedMatrix, recording_matrices
from gradflow.packed._pack import abstract_tree


class SummaryRow(NamedTuple):
    """One stage: its address, the number of parameters that it sees, and its own part of the state.

    `donated` is whether that part can be donated to the update, because it is returned in the same shapes and
    dtypes. It is None for a stage without state, and if the update could not be traced.
    """

    stage: str
    parameters: int
    state_bytes: int
    dtypes: tuple[str, ...]
    donated: bool | None

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes of state per parameter that the stage sees."""
        return self.state_bytes / self.parameters if self.parameters else 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """The stages of a transformation in the order in which updates pass them. Prints as a table.

    `matrices` has, for each stage that takes parameters as matrices, how many there are of which sides.
    """

    expression: str
    rows: tuple[SummaryRow, ...]
    parameters: int
    leaves: int
    parameter_bytes: int
    matrices: Mapping[str, Mapping[tuple[int, int], int]] = dataclasses.field(default_factory=dict)

    @property
    def state_bytes(self) -> int:
        """Bytes of the whole state."""
        return sum(row.state_bytes for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data."""
        rows = [{**row._asdict(), "bytes_per_parameter": row.bytes_per_parameter} for row in self.rows]
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        matrices = {stage: list(self._sides(stage)) for stage in self.matrices}
        return {**own, "rows": rows, "matrices": matrices, "state_bytes": self.state_bytes}

    def _sides(self, stage: str) -> Iterator[str]:
        """The matrices of a stage in words, such as "24 of 512 x 2048"."""
        for (rows, columns), number in self.matrices[stage].items():
            yield f"{number} of {rows} x {columns}"

    def _matrix_lines(self) -> list[str]:
        return [f"matrices of {stage}: {', '.join(self._sides(stage))}" for stage in self.matrices]

    def _title(self) -> str:
        return (
            f"{_count(self.parameters)} parameters in {self.leaves} leaves, {_size(self.parameter_bytes)}; "
            f"state {_size(self.state_bytes)}"
        )

    def _table(self) -> list[tuple[str, ...]]:
        donated = {True: "yes", False: "no", None: "-"}
        cells = [
            (row.stage, _count(row.parameters), _size(row.state_bytes), f"{row.bytes_per_parameter:.2f}",
             " ".join(row.dtypes) or "-", donated[row.donated])
            for row in self.rows
        ]  # fmt: skip
        per = self.state_bytes / self.parameters if self.parameters else 0.0
        total = ("total", _count(self.parameters), _size(self.state_bytes), f"{per:.2f}", "", "")
        return [_HEAD, *cells, total]

    def __str__(self) -> str:
        return "\n".join([self._title(), *aligned(self._table(), _LEFT), *self._matrix_lines()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        return table(head, rows, _LEFT, ". ".join([self._title(), *self._matrix_lines()]))


_HEAD = ("stage", "parameters", "state", "B/parameter", "dtypes", "donated")
_LEFT = (0, 4, 5)  # the left-aligned columns


@checked(params=ARRAYS)
def summary(tx: GradientTransformation, params: Params, **extra: Any) -> Summary:
    """The state of each stage of `tx` for `params`: bytes, dtypes, and whether it can be donated.

        print(gradflow.summary(tx, params))

    Nothing is computed or allocated, so the time does not depend on the size of the parameters.

    Args:
      tx: any transformation.
      params: the parameters, or `jax.ShapeDtypeStruct`s of their shapes.
      **extra: the extra arguments that the update of `tx` needs, if any; used for the last column only.

    The result prints as a table, is one in a notebook, and has `rows` and `to_dict()`.
    """
    tx = as_transformation(tx, "summary", "the first argument")
    abstract = jax.eval_shape(lambda: params) if not _is_abstract(params) else params
    rows: list[tuple[str, Stage, int, list[int]]] = []
    whole: list[Any] = []

    def init(params: Params) -> Any:
        before, context.inits = context.inits, []
        try:
            state = tx.init(params)
            records = context.inits
        finally:
            context.inits = before
        index = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(state))}
        claimed: set[int] = set()
        for address, stage, seen, part in records or []:  # inner stages come before their containers
            own = [i for i in (index.get(id(x)) for x in jax.tree.leaves(part)) if i is not None]
            mine = [i for i in own if i not in claimed]
            claimed.update(mine)
            rows.append((address, stage, _numbers(seen), mine))
        whole.append([i for i in index.values() if i not in claimed])
        return state

    with recording_matrices() as taken:
        state = jax.eval_shape(init, abstract)
    leaves = jax.tree.leaves(state)
    same = _comes_back(tx, abstract, state, extra)
    described = [
        _row(
            address,
            parameters,
            [leaves[i] for i in own],
            None if same is None or not own else all(same[i] for i in own),
        )
        for address, stage, parameters, own in rows
        if own or not (stage.children or isinstance(stage.update, UpdatePart))
    ]
    if whole[0]:  # state of plain functions, which have no stages
        described.append(_row(repr(tx), _numbers(abstract), [leaves[i] for i in whole[0]], None))
    arrays = jax.tree.leaves(abstract)
    leaves = jax.tree.leaves(abstract_tree(abstract))
    return Summary(
        expression=repr(tx),
        rows=tuple(described),
        parameters=_numbers(abstract),
        leaves=len(leaves),
        parameter_bytes=sum(map(_bytes, arrays)),
        matrices=_matrices(taken),
    )


def _matrices(taken: list[ResolvedMatrix]) -> dict[str, dict[tuple[int, int], int]]:
    found: dict[str, dict[tuple[int, int], int]] = {}
    for stage, _, shape, axes in taken:
        own = found.setdefault(stage, {})
        for count, rows, columns in axes.shapes(shape):
            own[rows, columns] = own.get((rows, columns), 0) + count
    return found


def _row(address: str, parameters: int, own: list[Any], donated: bool | None) -> SummaryRow:
    dtypes = tuple(sorted({str(leaf.dtype) for leaf in own if leaf.ndim}))
    return SummaryRow(address, parameters, sum(map(_bytes, own)), dtypes, donated)


def _comes_back(
    tx: GradientTransformation, params: Params, state: Any, extra: dict[str, Any]
) -> list[bool] | None:
    """Whether the update returns each leaf of the state with the same shape and dtype."""
    try:
        _, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **extra), params, state, params)
    except (TypeError, ValueError):
        return None
    structure: Any = jax.tree.structure(state)
    if structure != jax.tree.structure(after):
        return [False] * structure.num_leaves
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True)
    return [(a.shape, a.dtype) == (b.shape, b.dtype) for a, b in pairs]


def _is_abstract(params: Params) -> bool:
    for leaf in jax.tree.leaves(params):
        if not hasattr(leaf, "shape") and not isinstance(leaf, int | float | complex):
            raise TypeError(f"summary: argument 'params' must hold arrays; got {describe(leaf)}")
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))


def _numbers(params: Params) -> int:
    return tree.size(abstract_tree(params))


def _bytes(leaf: Any) -> int:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def _count(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)


def _size(number: int) -> str:
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return f"{number} B"

"""communication: the collectives of a compiled update, as a table."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from gradflow._checked import ARRAYS, checked
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._tables import aligned, table
from gradflow._types import Params
from gradflow.matrices._spread import SpreadGroup, recording_spread
from gradflow.sharding._collectives import Collective, collectives
from gradflow.sharding._placement import abstract, placed_state, require_mesh, sharding_of


@dataclasses.dataclass(frozen=True)
class Communication:
    """The collectives of a program. Prints as a table; equal programs for equal meshes are equal.

    - `mesh`: sizes of the mesh's axes.
    - `rows`: one for each kind, set of axes and place; those of each step come first.
    - `parameter_bytes`: of all parameters on one device, to compare with.
    - `spread`: the matrices that are exchanged to be whole somewhere, group by group; see `spread`.
    - `whole`: the leaves that `shard_state` could not cut.
    """

    expression: str
    mesh: Mapping[str, int]
    rows: tuple[Collective, ...]
    parameter_bytes: int
    spread: tuple[SpreadGroup, ...] = ()
    whole: tuple[Any, ...] = ()

    @property
    def step(self) -> tuple[Collective, ...]:
        """The rows that each step runs: those outside of branches."""
        return tuple(row for row in self.rows if row.where != "branch")

    @property
    def count(self) -> int:
        """How many collectives each step runs; see `Collective.count` for loops."""
        return sum(row.count for row in self.step)

    @property
    def bytes(self) -> int:
        """Their bytes on one device."""
        return sum(row.bytes for row in self.step)

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data."""
        return {
            **dataclasses.asdict(self), "mesh": dict(self.mesh), "count": self.count, "bytes": self.bytes
        }  # fmt: skip

    def _title(self) -> str:
        axes = ", ".join(f"{name}={size}" for name, size in self.mesh.items())
        share = self.bytes / self.parameter_bytes if self.parameter_bytes else 0.0
        what = f"{self.count} collectives" if self.count != 1 else "1 collective"
        return (
            f"{what} per step on {axes}: {self.bytes:,} bytes per device, {share:.3g} x its "
            f"{self.parameter_bytes:,} bytes of parameters"
        )

    def _table(self) -> list[tuple[str, ...]]:
        cells = [
            (row.kind, ", ".join(row.axes), row.where, f"{row.count:,}", f"{row.bytes:,}")
            for row in self.rows
        ]
        return [_HEAD, *cells]

    def __str__(self) -> str:
        rows = aligned(self._table(), _LEFT) if self.rows else []
        return "\n".join([self._title(), *rows, *map(str, self.spread + self.whole)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = self._table()
        return table(head, rows, _LEFT, ". ".join([self._title(), *map(str, self.spread + self.whole)]))


_HEAD = ("collective", "axes", "where", "count", "bytes")
_LEFT = (0, 1, 2)


@checked(params=ARRAYS)
def communication(tx: GradientTransformation, params: Params, **extra: Any) -> Communication:
    """The collectives that an update of `tx` runs, before it runs.

        print(communication(tx, params))

    The update is compiled for the devices of the mesh, with gradients placed like the parameters. What the
    gradients themselves communicate is not in it; `communication_of` reads a whole training step.

    Args:
      tx: any transformation.
      params: arrays on a mesh, or `jax.ShapeDtypeStruct`s with `sharding`.
      **extra: the extra arguments that the update needs, if any: arrays, shapes, or functions.

    Raises ValueError for parameters that are not on one mesh.
    """
    tx = as_transformation(tx, "communication", "the first argument")
    mesh = require_mesh("communication", params)
    with recording_spread() as (spread, whole):
        lowered = lower(tx, params, mesh, **extra)
    found = read(lowered.compile(), mesh, repr(tx), params)
    return dataclasses.replace(found, spread=tuple(spread), whole=tuple(whole))


def lower(tx: GradientTransformation, params: Params, mesh: Mesh, **extra: Any) -> Any:
    """The lowered update: gradients, state and parameters, with the state donated."""
    placed, state = abstract(params), placed_state(tx, params, mesh)
    arrays = {name: value for name, value in extra.items() if not callable(value)}
    functions = {name: value for name, value in extra.items() if callable(value)}

    def update(updates: Any, state: Any, params: Any, arrays: Any) -> Any:
        return tx.update(updates, state, params, **arrays, **functions)

    shardings = jax.tree.map(sharding_of, (placed, state))
    jitted = jax.jit(update, donate_argnums=1, out_shardings=shardings)
    return jitted.lower(placed, state, placed, arrays)


def communication_of(compiled: Any, mesh: Mesh, params: Params = None) -> Communication:
    """The collectives of a compiled program, such as a training step.

        compiled = jax.jit(step).lower(params, state, batch).compile()
        print(communication_of(compiled, mesh, params))

    Args:
      compiled: what `jax.jit(f).lower(...).compile()` returns.
      mesh: the mesh of its arguments.
      params: the parameters, to compare bytes with.
    """
    if not callable(getattr(compiled, "as_text", None)):
        raise TypeError(
            "communication_of: argument 'compiled' must be a compiled program, as jax.jit(f).lower(...)"
            f".compile() returns it; got {describe(compiled)}"
        )
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"communication_of: argument 'mesh' must be a jax.sharding.Mesh; got {describe(mesh)}"
        )
    return read(compiled, mesh, "", params)


def read(compiled: Any, mesh: Mesh, expression: str, params: Params) -> Communication:
    """The table of a compiled program for a mesh."""
    axes = {str(name): int(size) for name, size in mesh.shape.items()}
    local = sum(_local_bytes(leaf) for leaf in jax.tree.leaves(params) if hasattr(leaf, "shape"))
    return Communication(expression, axes, collectives(compiled.as_text(), axes), local)


def _local_bytes(leaf: Any) -> int:
    sharding = sharding_of(leaf)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    size = leaf.dtype.itemsize
    for side in shape:
        size *= side
    return int(size)

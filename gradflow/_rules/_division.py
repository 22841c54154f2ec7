"""How devices divide the leaves of a rule, where that is part of the leaves' types."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from gradflow._shardings import spec_of


class Division(NamedTuple):
    """A mesh of explicit axes, and along which of them each axis of a leaf is divided."""

    mesh: Any
    spec: tuple[Any, ...]

    @property
    def parts(self) -> tuple[int, ...]:
        """In how many parts each axis is divided."""
        return tuple([math.prod(self.mesh.shape[name] for name in _names(axis)) for axis in self.spec])

    def first(self, shape: tuple[int, ...]) -> jax.Array:
        """Inside of `shard_map`: the place in the whole, of `shape`, where this device's piece begins."""
        place = jnp.zeros((), jnp.uint32)
        for k, (size, axis, parts) in enumerate(zip(shape, self.spec, self.parts, strict=True)):
            if parts > 1:
                stride = np.uint32(size // parts * math.prod(shape[k + 1 :]) % 2**32)
                place = place + jax.lax.axis_index(_names(axis)).astype(jnp.uint32) * stride
        return place


def division_of(arrays: Sequence[jax.Array]) -> Division | None:
    """The division that arrays of one number of axes share; None where their types have none.

    Rows of a piece must be rows in sequence of the whole, so that a piece is a matrix as the whole is.
    """
    specs = {spec_of(x) for x in arrays}
    if len(specs) != 1 or None in specs:
        return None
    mesh: Any = jax.typeof(arrays[0]).sharding.mesh
    division = Division(mesh, specs.pop() or ())
    divided = [k for k, parts in enumerate(division.parts[:-1]) if parts > 1]
    if len(mesh.explicit_axes) != len(mesh.axis_names) or any(
        math.prod(arrays[0].shape[:k]) > 1 for k in divided
    ):
        return None
    return division


@functools.lru_cache(maxsize=1024)
def on_each_device(
    run: Callable[..., tuple[Any, ...]], division: Division, shape: tuple[int, ...], results: int
) -> Callable[..., tuple[Any, ...]]:
    """`run(leaves, scalars, first)` of each device's pieces, as a function of whole leaves and scalars.

    The leaves have `shape`, and what it returns first is divided like as many of them. Scalars and seeds are
    on every device.
    """

    def spec(x: Any) -> Any:
        return PartitionSpec(*division.spec) if x.ndim else PartitionSpec()

    def piece(leaves: tuple[Any, ...], scalars: tuple[Any, ...]) -> tuple[Any, ...]:
        return run(leaves, scalars, division.first(shape))

    def whole(leaves: tuple[Any, ...], scalars: tuple[Any, ...]) -> tuple[Any, ...]:
        specs = jax.tree.map(spec, (leaves, scalars))
        result: tuple[Any, ...] = jax.shard_map(
            piece, mesh=division.mesh, in_specs=specs, out_specs=specs[0][:results], check_vma=False
        )(leaves, scalars)
        return result

    return whole


def _names(axis: Any) -> tuple[str, ...]:
    """The mesh axes along which an axis of an array is divided."""
    return () if axis is None else axis if isinstance(axis, tuple) else (axis,)

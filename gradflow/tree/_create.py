"""New trees with the structure of others: filled, cast, batched."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAYS, DTYPE, SCALAR, SHAPE, checked
from gradflow._dtypes import DType, is_complex
from gradflow._shardings import sharded_alike
from gradflow.tree._leaves import dtype_of, raise_leaf_error
from gradflow.tree._structure import match


@checked(tree=ARRAYS, dtype=DTYPE | None)
def zeros_like(tree: Any, dtype: Any = None) -> Any:
    """A tree of zeros with the leaves' shapes, dtypes and shardings, in new buffers of strong types.

    Leaves may be arrays, tracers or `jax.ShapeDtypeStruct`; `dtype` replaces the leaves' own.
    """
    return _filled(tree, 0, dtype)


@checked(tree=ARRAYS, dtype=DTYPE | None)
def ones_like(tree: Any, dtype: Any = None) -> Any:
    """A tree of ones; see `zeros_like`."""
    return _filled(tree, 1, dtype)


@checked(tree=ARRAYS, fill_value=SCALAR, dtype=DTYPE | None)
def full_like(tree: Any, fill_value: Any, dtype: Any = None) -> Any:
    """A tree filled with the scalar `fill_value`; see `zeros_like`."""
    return _filled(tree, fill_value, dtype)


def _filled(tree: Any, value: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: full_leaf(x, value, dtype), tree)


def full_leaf(x: Any, value: Any, dtype: Any) -> jax.Array:
    """One leaf of `full_like`, without its checks."""
    # The dtype is always passed: without it, a weakly typed leaf would give weakly typed state.
    dtype = dtype_of(x) if dtype is None else jax.dtypes.canonicalize_dtype(dtype)
    if isinstance(x, jax.core.Tracer):
        result: jax.Array = _full_traced(x, value, dtype)
        return result
    if getattr(x, "committed", True) is False and isinstance(value, int | float) and value in (0, 1):
        # An uncommitted array may be placed anywhere. Skipping `alike` halves the time of an eager `init`.
        return jax.lax.broadcast(np.asarray(value, dtype), x.shape)
    return alike(x, jax.lax.full_like(x, value, dtype))


@functools.partial(jax.jit, static_argnums=2)
def _full_traced(x: jax.Array, value: Any, dtype: DType) -> jax.Array:
    # Jitted, because tracers of an eager `grad` or `vmap` have no mesh.
    return alike(x, jax.lax.full_like(x, value, dtype))


def alike(x: Any, y: jax.Array) -> jax.Array:
    """`y`, of the same shape as `x`, sharded like it.

    Under `jit` neither a tracer nor the partitioner knows how a constant should be sharded, so it would
    stay on one device or be replicated. Inside `shard_map` shapes are local already.
    """
    if jax.sharding.get_abstract_mesh().manual_axes:
        return y
    wanted = jax.typeof(x).sharding
    explicit = bool(wanted.mesh.explicit_axes)  # then the type has the sharding, for tracers too
    traced = isinstance(y, jax.core.Tracer)
    if explicit and traced and jax.typeof(y).sharding != wanted:
        y = jax.sharding.reshard(y, wanted)
    if isinstance(x, jax.core.Tracer):
        return sharded_alike(y, x)
    sharding = getattr(x, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding) or (explicit and traced):
        return y
    if not isinstance(sharding.mesh, jax.sharding.Mesh):
        return y
    place: Any = jax.lax.with_sharding_constraint if traced else jax.device_put
    result: jax.Array = place(y, sharding)
    return result


@checked(tree=ARRAYS, dtype=DTYPE | None)
def cast(tree: Any, dtype: Any) -> Any:
    """Casts every leaf to `dtype`; None returns the tree unchanged.

    A leaf that already has this dtype is not copied. Casting complex leaves to a real dtype raises TypeError:
    use `real` first.
    """
    if dtype is None:
        return tree
    wanted = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
    rows, treedef = match(tree)
    return treedef.unflatten(_cast(tree, [(x, wanted) for (x,) in rows]))


@checked(tree=ARRAYS, other_tree=ARRAYS)
def cast_like(tree: Any, other_tree: Any) -> Any:
    """Casts every leaf to the dtype of the corresponding leaf of `other_tree`; see `cast`.

    Shapes may differ. Where either leaf is None the result is None.
    """
    rows, treedef = match(tree, other_tree, shapes=False)
    wanted = [(None, None) if y is None else (x, dtype_of(y)) for x, y in rows]
    return treedef.unflatten(_cast(tree, wanted))


def _cast(tree: Any, wanted: Iterable[tuple[Any, DType | None]]) -> list[Any]:
    leaves: list[Any] = []
    changing: dict[int, DType] = {}
    for i, (x, dtype) in enumerate(wanted):
        leaves.append(x)
        if x is None or dtype is None:
            continue
        own = dtype_of(x)
        if is_complex(own) and not is_complex(dtype):
            raise_leaf_error(tree, i, f"real to be cast to {dtype}", own)
        if isinstance(x, jax.ShapeDtypeStruct):
            leaves[i] = jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)
        elif own != dtype or getattr(x, "weak_type", True):
            changing[i] = dtype
    if changing:
        cast_leaves = _convert([leaves[i] for i in changing], tuple(changing.values()))
        for i, x in zip(changing, cast_leaves, strict=True):
            leaves[i] = x
    return leaves


@functools.partial(jax.jit, static_argnums=1)
def _convert(leaves: list[jax.Array], dtypes: tuple[DType, ...]) -> list[jax.Array]:
    return [jax.lax.convert_element_type(x, d) for x, d in zip(leaves, dtypes, strict=True)]


@checked(tree=ARRAYS, shape=SHAPE)
def batch_shape(tree: Any, shape: tuple[int, ...] = ()) -> Any:
    """Broadcasts every leaf along new leading axes of the given sizes."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*shape, *np.shape(x))), tree)

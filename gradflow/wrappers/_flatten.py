"""All leaves as one vector."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradflow._calls._checks import check_leaves, check_like
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import in_dtype_of
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._selection._inner_arguments import inner_arguments
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.tree._create import alike
from gradflow.tree._leaves import common_dtype
from gradflow.tree._paths import is_none


@transformation
def flatten(inner: GradientTransformation) -> Pair:
    """Passes all leaves to `inner` as one vector, in their promoted dtype.

    It suits rules that are defined on a vector, such as quasi-Newton methods or norms of the whole tree. It
    also suits very many small leaves, since one long operation costs less than a thousand short ones. For
    large leaves it adds two copies, and leaves of different shardings are gathered.

    Args:
      inner: its state has vectors instead of trees; gradients and functions of the parameters among the extra
        arguments become those of the vector.

    The updates have the shapes, dtypes and shardings of the leaves. A gradient that is None counts as zero,
    and its update is None. Raises ValueError inside `shard_map` where leaves differ along an axis.

    >>> import gradflow as gf
    >>> print(gf.flatten(gf.adamw(0.001)))
    flatten(adamw(0.001))
    """

    def init(params: Params) -> OptState:
        check_leaves("inexact", "parameters", params)
        return inner.init(vector_of(jax.tree.leaves(params)))

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        check_leaves("inexact", "updates", updates)
        refuse_varying("a vector", updates)
        grads: list[Any]
        structure: Any
        grads, structure = jax.tree.flatten(updates, is_leaf=is_none)
        likes = grads
        if params is not None:
            check_like("updates", updates, "params", params)
            likes = jax.tree.leaves(params, is_leaf=is_none)
        here = [i for i, like in enumerate(likes) if like is not None]
        # Leaves without a gradient do not take part in the promotion.
        dtype = common_dtype(g.dtype for g in grads if g is not None)
        pieces = [jnp.zeros(likes[i].shape, dtype) if grads[i] is None else grads[i] for i in here]
        vector = vector_of(pieces)
        if params is not None:
            extra = _vector_arguments(extra, likes, here, structure)
        new, state = inner.update(
            vector, state, None if params is None else vector_of([likes[i] for i in here]), **extra
        )
        out: list[Any] = list(grads)
        offset = 0
        for i in here:
            size = int(np.prod(likes[i].shape))
            if grads[i] is not None:
                out[i] = piece_of(new[offset : offset + size], grads[i])
            offset += size
        return structure.unflatten(out), state

    return init, update


def _vector_arguments(
    extra: Mapping[str, Any], params: list[Any], here: list[int], structure: Any
) -> dict[str, Any]:
    """Gradients and functions of the parameters among the extra arguments, for the vector of the leaves."""

    def to_vector(tree: Any) -> jax.Array:
        leaves = jax.tree.leaves(tree, is_leaf=is_none)
        return vector_of([jnp.zeros_like(params[i]) if leaves[i] is None else leaves[i] for i in here])

    def to_tree(vector: jax.Array) -> Any:
        leaves = [*params]
        offset = 0
        for i in here:
            size = params[i].size
            leaves[i] = piece_of(vector[offset : offset + size], params[i])
            offset += size
        return jax.tree.unflatten(structure, leaves)

    return inner_arguments(extra, to_vector, to_tree)


def vector_of(leaves: list[jax.Array]) -> jax.Array:
    """The leaves, concatenated."""
    dtype = common_dtype(x.dtype for x in leaves)
    parts = [jnp.reshape(_gathered(x).astype(dtype), -1) for x in leaves]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def _gathered(x: jax.Array) -> jax.Array:
    """A replicated leaf where types carry shardings, since arrays of different types do not concatenate."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*[None] * x.ndim)))


def piece_of(part: jax.Array, like: jax.Array) -> jax.Array:
    """A part of the vector with the shape, dtype and sharding of its leaf."""
    return alike(like, in_dtype_of(jnp.reshape(part, like.shape), like))

"""GaLore: any optimizer, with its state in a low-dimensional subspace per matrix."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation, stages_of
from gradflow._expressions._arguments import NonNegative, PositiveLength, Rate, Size
from gradflow._expressions._registry import register_record
from gradflow._rules._leafwise import specialize
from gradflow._rules._math import bounded
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Other
from gradflow._rules._state import increment, zero_scalar
from gradflow._selection._partial_trees import fill_none
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates, is_absent
from gradflow.linalg import refresh
from gradflow.matrices._matrix import MatrixAxes, to_matrices
from gradflow.matrices._resolve import resolve_matrices
from gradflow.optimizers._adam import scale_by_adam
from gradflow.optimizers._matrices import leafwise_matrices, with_gathered
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


@register_record
class GaLoreDimensionNumbers(NamedTuple):
    """The input and output axes of the matrices in a leaf; the other axes are batch axes."""

    reduction_axis: Sequence[int] | int = 0
    output_axis: Sequence[int] | int = 1


class GaLoreState(NamedTuple):
    """Steps taken, the base optimizer's state, and a basis for each matrix; None for other leaves."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    base_optimizer_state: OptState
    projector: Other


def project_rule(
    g: jax.Array, basis: jax.Array, s: Any, *, axes: MatrixAxes, gap: int
) -> tuple[jax.Array, ...]:
    """Zhao et al. 2024, Algorithm 2: the gradient in the basis, which is recomputed every `gap` steps."""
    rank = basis.shape[-1]

    def both(g: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, _ = to_matrices(bounded(g) + (g - g), axes)  # NaN where it is not finite
        # A basis of zeros is not set yet: the gradients so far were zero, as after a zero layer.
        # One reduction: a GPU would launch a kernel more for the other test.
        due = jnp.all((basis[..., 0] == 0) | (s.count % gap == 0))
        new = refresh(due, functools.partial(_leading, rank), basis, x)
        return (jnp.conj(new.mT) @ x if _is_wide(x) else x @ new), new

    return with_gathered(both, g)


def _leading(rank: int, old: jax.Array, x: jax.Array) -> jax.Array:
    """The leading singular vectors on the shorter side of each matrix, or the old ones if it is zero."""
    if x.ndim > 2:
        flat = (y.reshape(-1, *y.shape[-2:]) for y in (old, x))
        return jax.lax.map(lambda pair: _leading(rank, *pair), tuple(flat)).reshape(old.shape)
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    usable = jnp.clip(largest, jnp.finfo(largest.dtype).tiny, jnp.finfo(largest.dtype).max / 16)
    x = x / usable.astype(x.dtype)
    left, right = (x, jnp.conj(x.mT)) if _is_wide(x) else (jnp.conj(x.mT), x)
    _, vectors = jnp.linalg.eigh(jnp.matmul(left, right, precision="highest"))
    vectors = vectors[..., ::-1][..., :rank]
    # Singular vectors have no unique sign: the largest element is made positive, on every device.
    sizes = jnp.abs(vectors)
    pivot = jnp.take_along_axis(vectors, jnp.argmax(sizes, axis=-2, keepdims=True), axis=-2)
    vectors = vectors * (jnp.conj(pivot) / jnp.abs(pivot))
    return jnp.where(largest > 0, vectors.astype(old.dtype), old)


def restore_rule(
    u: jax.Array, basis: jax.Array, g: jax.Array, s: Any, *, axes: MatrixAxes
) -> tuple[jax.Array, ...]:
    """u = scale * basis @ u, in the shape of the gradient."""

    def whole(g: jax.Array) -> jax.Array:
        x, back = to_matrices(g, axes)
        return back(s.scale * (basis @ u if _is_wide(x) else u @ jnp.conj(basis.mT)))

    return with_gathered(whole, g), basis, g


def _is_wide(x: jax.Array) -> bool:
    return x.shape[-2] <= x.shape[-1]


def _shapes(leaf: Any, axes: MatrixAxes, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a leaf's basis and of its gradient in that basis."""
    batch = tuple(leaf.shape[i] for i in axes.batch(leaf.ndim))
    m, n = axes.sizes(leaf.shape)
    return ((*batch, m, rank), (*batch, rank, n)) if m <= n else ((*batch, n, rank), (*batch, m, rank))


@transformation(stackable=False)
def scale_by_galore(
    rank: PositiveLength = 128,
    update_proj_gap: Size = 200,
    scale: NonNegative = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_dimension_numbers: Any = None,
) -> Pair:
    """Applies another transformation to the gradients of matrices, projected to a subspace.

        P = the first `rank` left singular vectors of g, every `update_proj_gap` steps
        u = scale * P @ base_optimizer(P^T @ g)

    If a matrix has more rows than columns, P is on the right: `u = scale * base_optimizer(g @ P) @ P^T`.

    Args:
      rank: dimensions of the subspaces, >= 1. A leaf that is not a matrix, or has a side of at most `rank`,
        is passed to the base optimizer unchanged.
      update_proj_gap: steps between updates of P, >= 1.
      scale: factor of the projected steps, >= 0; the paper has 0.25 for it.
      base_optimizer: any transformation that does not need `params`; None is `scale_by_adam()`.
      weight_dimension_numbers: `GaLoreDimensionNumbers`, a tree of them and of None or a prefix of one, or a
        function from the parameters to it. By default leaves of two axes are matrices.

    A zero gradient does not set P. Raises ValueError for a base optimizer that needs `params`, and inside
    `shard_map` for a sharded matrix. Source: Zhao et al. 2024, arXiv:2403.03507.
    """
    base = scale_by_adam() if base_optimizer is None else base_optimizer
    base = as_transformation(base, "scale_by_galore", "argument 'base_optimizer'")
    for stage in stages_of(base):
        if stage.signature.needs_params:
            raise ValueError(
                f"scale_by_galore: argument 'base_optimizer' must not need params; got "
                f"{stage.expression.name}, which needs them. For weight decay use galore(weight_decay=...)."
            )
    project = specialize(project_rule, gap=update_proj_gap)

    def axes_of(params: Params) -> Any:
        axes = resolve_matrices(weight_dimension_numbers, params, GaLoreDimensionNumbers, at_least=2)
        matrices = jax.tree.map(lambda a, p: None if a is None else p, axes, params, is_leaf=is_absent)
        # Also for small leaves: the size of a shard does not determine the size of the whole leaf.
        refuse_varying("a singular vector", matrices)
        return jax.tree.map(
            lambda a, p: a if is_absent(a) or min(a.sizes(p.shape)) > rank else None,
            axes, params, is_leaf=is_absent,
        )  # fmt: skip

    def init(params: Params) -> OptState:
        def low(a: Any, p: Any) -> Any:
            if not isinstance(a, MatrixAxes):
                return p
            # A sum of zeros has the sharding that the projected gradients have.
            x, _ = to_matrices(tree.zeros_like(p), a)
            return jnp.broadcast_to(
                jnp.sum(x, axis=-2 if _is_wide(x) else -1, keepdims=True), _shapes(p, a, rank)[1]
            )

        def basis(a: Any, p: Any) -> Any:
            if not isinstance(a, MatrixAxes):
                return None if not is_absent(a) else a
            return jnp.broadcast_to(zero_scalar(p, p.dtype), _shapes(p, a, rank)[0])

        axes = axes_of(params)
        proxies, bases = (jax.tree.map(f, axes, params, is_leaf=is_absent) for f in (low, basis))
        return GaLoreState(zero_scalar(params), base.init(proxies), bases)

    def update(
        updates: Updates, state: GaLoreState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, GaLoreState]:
        axes = axes_of(updates if params is None else params)
        matrices = jax.tree.map(lambda a, g: None if a is None else g, axes, updates, is_leaf=is_absent)
        wanted = jax.tree.map(
            lambda a, g: g if is_absent(g) else jax.ShapeDtypeStruct(_shapes(g, a, rank)[0], g.dtype),
            axes, matrices, is_leaf=is_absent,
        )  # fmt: skip
        check_like("what the updates need", wanted, "the state's projector", state.projector)
        low, projector = leafwise_matrices(
            project, axes, (matrices, state.projector), None, shapes=False, count=state.count
        )
        low, base_state = base.update(fill_none(low, updates), state.base_optimizer_state, None, **extra)
        seen = jax.tree.map(lambda a, u: None if a is None else u, axes, low, is_leaf=is_absent)
        u, *_ = leafwise_matrices(
            restore_rule, axes, (seen, projector, matrices), None, shapes=False, scale=scale
        )
        return fill_none(u, low), GaLoreState(increment(state.count), base_state, projector)

    return init, update


@transformation
def galore(
    learning_rate: Rate,
    rank: PositiveLength = 128,
    update_proj_gap: Size = 200,
    scale: NonNegative = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    weight_dimension_numbers: Any = None,
) -> GradientTransformation:
    """GaLore: `scale_by_galore`, decoupled weight decay, then the learning rate.

    Args:
      learning_rate: a number >= 0 or a schedule; the base optimizer should not have one.
      weight_decay: >= 0, outside the subspace.
      mask: tree of booleans, or a function from the parameters to one: where to decay.

    The others and the source as in `scale_by_galore`.
    """
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

"""Shampoo: a root of the gradients' statistics for each side of a leaf."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._expressions._arguments import (
    Decay,
    Index,
    Length,
    NonNegative,
    Positive,
    PositiveLength,
    Rate,
    Size,
)
from gradflow._kernel_hints._order import gpu_barrier, in_turn
from gradflow._rules._leafwise import Scalars, specialize
from gradflow._rules._math import abs_sq, one_minus_power, safe_sqrt
from gradflow._rules._roles import Mean, Other, Square
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.matrices._matrix import in_blocks
from gradflow.matrices._per_matrix import per_matrix
from gradflow.matrices._refresh_per_matrix import refresh_per_matrix
from gradflow.matrices._resolve import tensors
from gradflow.matrices._state_per_matrix import check_per_matrix, init_per_matrix
from gradflow.optimizers._for_matrices import with_others
from gradflow.optimizers._kronecker import (
    Factors,
    after_factors,
    decay_factors,
    limited,
    rotate,
    sides,
    to_unit,
)
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


class ShampooState(NamedTuple):
    """Steps taken, the moments, and for each side of a leaf the statistics and their inverse root.

    `mu` is None without momentum, `nu` without grafting. A side that is left alone has None.
    """

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Square
    factors: Other
    roots: Other


def shampoo_scalars(
    count: jax.Array, b1: jax.Array, b2: jax.Array, beta: jax.Array, **_: jax.Array
) -> Scalars:
    """The decays' complements and the bias corrections of step `count`, which begins at 1."""
    return {
        "c1": 1 - b1,
        "c2": 1 - b2,
        "debias1": 1 / one_minus_power(1 - b1, count),
        "debias2": 1 / one_minus_power(1 - b2, count),
        "c3": 1 - beta,
    }


def statistics_rule(g: jax.Array, factors: Factors, s: Any, *, averages: bool) -> tuple[Any, ...]:
    """Gupta et al. 2018, Algorithm 2, with the averages of Anil et al. 2020."""
    g, is_finite = limited(g, factors)
    beta, c = (s.beta, s.c3) if averages else (1, 1)
    decayed: list[jax.Array | None] = []
    for axis in range(len(factors)):
        # One side after the other, so that a GPU holds one product beside the gradient.
        alone = tuple(factor if i == axis else None for i, factor in enumerate(factors))
        g, alone = after_factors(g, decay_factors(g, is_finite, alone, beta, c))
        decayed.append(alone[axis])
    return g, tuple(decayed)


def root_rule(roots: Factors, factors: Factors, s: Any, *, averages: bool, one_sided: bool) -> Any:
    """`(debias * F + eps I)^(-1 / 2k)` of each of k sides."""
    debias = 1 / one_minus_power(1 - s.beta, s.count) if averages else jnp.ones_like(s.eps)
    order = 2 * max(sum(factor is not None for factor in factors), 1)
    made: dict[int, jax.Array] = {}
    for axis, (root, factor) in enumerate(zip(roots, factors, strict=True)):
        if root is None or factor is None:
            continue
        # A GPU begins when the roots before are written, and holds two matrices, not five.
        before, (factor,) = in_turn(list(made.values()), [factor])
        made = dict(zip(made, before, strict=True))
        new = _inverse_root(factor, order, one_sided, debias, s.eps)
        made[axis] = jnp.where(jnp.sum(new * 0) == 0, new, root)
    return (tuple(made.get(axis) for axis in range(len(roots))),)


def shampoo_rule(g: jax.Array, mu: Any, nu: Any, roots: Factors, s: Any, *, start: int) -> tuple[Any, ...]:
    """The roots' product with the momentum, with the grafting of Anil et al. 2020."""
    g, _ = limited(g, roots)
    if mu is not None:
        mu = s.b1 * mu + s.c1 * g
    if nu is not None:
        nu = s.b2 * nu + s.c2 * abs_sq(g)
    mu, nu = gpu_barrier((mu, nu))  # before the norms that read them
    m = g if mu is None else s.debias1 * mu
    u = rotate(m, roots)
    if nu is not None:
        grafted = m / (safe_sqrt(s.debias2 * nu) + s.graft_eps)
        u, _ = to_unit(u)
        u = u * (_norm(grafted) / (_norm(u) + 1e-16))
        u = jnp.where(s.count > start, u, grafted)
    return u, mu, nu


def _norm(x: jax.Array) -> jax.Array:
    return safe_sqrt(jnp.sum(x * x))


def _inverse_root(
    factor: jax.Array, order: int, one_sided: bool, debias: jax.Array, eps: jax.Array
) -> jax.Array:
    """The power of a matrix by its eigenvalues, none of which is taken below the rounding of the largest."""
    # LAPACK reads columns, and the columns of the transpose lie as the rows do.
    factor, size = to_unit(factor.T)
    values, vectors = jnp.linalg.eigh(factor, symmetrize_input=False)
    # A gradient has nothing in the directions in which no gradient had anything, but for its roundings. By
    # the root of `eps` alone gradients of 1e8 made steps of 100 there.
    rounding = values[-1] * len(values) * jnp.finfo(values.dtype).eps
    scale = size * debias
    raised = jnp.maximum(jnp.maximum(values, 0) * scale + eps, rounding * scale)
    powers = jnp.exp(-jnp.log(raised) / (2 * order))
    if one_sided:
        powers = jnp.where(values > rounding, powers, 0)
    half = (vectors * powers[None, :]).T  # one array, where the vectors and their multiple would be two
    return jnp.matmul(half.T, half, precision="highest")


@transformation(leaves="real")
def scale_by_shampoo(
    b1: Decay | None = None,
    beta: Decay | None = None,
    eps: Positive = 1e-6,
    precondition_frequency: Size = 1,
    max_dim: Length = 8192,
    *,
    grafting: Literal["adam"] | None = None,
    b2: Decay = 0.999,
    graft_eps: Positive = 1e-8,
    start_step: Index = 0,
    block_size: PositiveLength | None = None,
    one_sided: bool = False,
    matrices: Any = None,
    mu_dtype: Any = None,
) -> Pair:
    """Multiplies each side of a leaf by an inverse root of its gradients' outer products.

        L = L + g @ g^T;   R = R + g^T @ g                          with beta, averages without bias
        u = (L + eps I)^(-1/4) @ m @ (R + eps I)^(-1/4)

    A leaf of k sides has the power -1 / 2k. `m` is the gradient, or with b1 its average without bias.

    Args:
      b1: decay of the momentum, in [0, 1); None leaves it out.
      beta: decay of the statistics, in [0, 1); None adds them up, as in 2018.
      eps: added to the eigenvalues, > 0.
      precondition_frequency: steps from one computation of the roots to the next, >= 1.
      max_dim: a longer side is left alone.
      grafting: "adam" gives each matrix the norm of Adam's update, with decay b2 and graft_eps.
      start_step: with grafting, the first steps that are Adam's own.
      block_size: matrices are cut into blocks with sides of at most this, each a matrix of its own.
      one_sided: the shorter side alone, to the power -1/2, of a singular matrix the pseudo-inverse's.
      matrices: `Matrix` or `choose_matrices` have all leaves taken as matrices, or as stacks of them.
      mu_dtype: dtype of the momentum; the parameters' by default.

    Raises inside `shard_map` for pieces of a leaf. Sources: Gupta et al. 2018, arXiv:1802.09568; Anil et al.
    2020, arXiv:2002.09018; Xie et al. 2025, arXiv:2502.20762 for one side.
    """
    if grafting not in (None, "adam"):
        raise ValueError(
            f"scale_by_shampoo: argument 'grafting' must be None or 'adam'; got {describe(grafting)}"
        )
    averages = beta is not None
    rule = specialize(shampoo_rule, start=start_step)
    statistics = specialize(statistics_rule, averages=averages)
    root = specialize(root_rule, averages=averages, one_sided=one_sided)
    make = functools.partial(_first_sides, max_dim, one_sided)

    def axes_of(params: Params) -> Any:
        axes = tensors(matrices, params)
        return axes if block_size is None else in_blocks(axes, params, block_size)

    def init(params: Params) -> OptState:
        axes = axes_of(params)
        nothing = jax.tree.map(lambda p: None, params)
        return ShampooState(
            zero_scalar(params),
            nothing if b1 is None else first_moment(params, mu_dtype),
            nothing if grafting is None else second_moment(params),
            init_per_matrix(functools.partial(make, 0.0), axes, params),
            init_per_matrix(functools.partial(make, 1.0), axes, params),
        )

    def update(
        updates: Updates, state: ShampooState, params: Params | None = None
    ) -> tuple[Updates, ShampooState]:
        axes = axes_of(updates if params is None else params)
        check_per_matrix(
            functools.partial(make, 0.0), axes, updates, factors=state.factors, roots=state.roots
        )
        if b1 is not None:
            check_like("updates", updates, "state", state.mu)
        count = increment(state.count)
        numbers: dict[str, Any] = {
            "count": count, "b1": 0.0 if b1 is None else b1, "beta": 0.0 if beta is None else beta,
            "b2": b2, "eps": eps, "graft_eps": graft_eps,
        }  # fmt: skip
        g, factors = per_matrix(
            statistics, axes, (updates, state.factors), shampoo_scalars, in_order=True, **numbers
        )
        due = (count - 1) % precondition_frequency == 0
        (roots,) = refresh_per_matrix(
            root,
            axes,
            due,
            g,
            (state.roots,),
            (factors,),
            stays_finite=True,
            count=count,
            beta=numbers["beta"],
            eps=eps,
        )
        # A GPU has done with the roots when it begins with the moments.
        leaves, structure = jax.tree.flatten(updates)
        _, leaves = in_turn(jax.tree.leaves(roots), leaves)
        updates = jax.tree.unflatten(structure, leaves)
        u, mu, nu, *_ = per_matrix(
            rule, axes, (updates, state.mu, state.nu, roots), shampoo_scalars, in_order=True, **numbers
        )
        return u, ShampooState(count, mu, nu, factors, roots)

    return init, update


def _first_sides(max_dim: int, one_sided: bool, value: float, shape: tuple[int, ...], p: Any) -> Factors:
    own = sides(shape, p, max_dim, value=value, smallest=1)
    if not one_sided or len(shape) < 2:
        return own
    shortest = min(range(len(shape)), key=lambda i: shape[i])
    return tuple(factor if i == shortest else None for i, factor in enumerate(own))


@transformation
def shampoo(
    learning_rate: Rate,
    b1: Decay | None = None,
    beta: Decay | None = None,
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 0.0,
    precondition_frequency: Size = 1,
    max_dim: Length = 8192,
    mask: MaskOrFn | None = None,
    *,
    grafting: Literal["adam"] | None = None,
    b2: Decay = 0.999,
    graft_eps: Positive = 1e-8,
    start_step: Index = 0,
    block_size: PositiveLength | None = None,
    one_sided: bool = False,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    mu_dtype: Any = None,
) -> GradientTransformation:
    """Shampoo: `scale_by_shampoo`, decoupled weight decay, then the learning rate.

        shampoo(1.7e-3, 0.93, 0.9955, 1e-12, 0.08, 100, grafting="adam", b2=0.9955, block_size=1024)

    is near the winner of AlgoPerf; the defaults are those of 2018. It takes all parameters. With `matrices`
    or `others` it is `for_matrices`, and what is not a matrix goes to `others`.

    Args:
      learning_rate: a number >= 0 or a schedule; with grafting that of Adam.
      weight_decay: >= 0.
      mask: tree of booleans, or a function from the parameters to one: where to decay.
      matrices: as in `for_matrices`; None with `others` is `hidden_matrices()`.
      others: for what is not a matrix; `adamw(learning_rate)` where only `matrices` is given.
      others_rate: a factor of the updates of `others`, >= 0.

    The others and the sources as in `scale_by_shampoo`.
    """
    inner = chain(
        scale_by_shampoo(
            b1, beta, eps, precondition_frequency, max_dim, grafting=grafting, b2=b2, graft_eps=graft_eps,
            start_step=start_step, block_size=block_size, one_sided=one_sided, mu_dtype=mu_dtype,
        ),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )  # fmt: skip
    return with_others(inner, learning_rate, others, others_rate, matrices)

"""Sophia: clipped steps divided by the curvature, which is estimated every few steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._reports import report
from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Index, Limit, NonNegative, Positive, Rate, Size
from gradflow._rules._leafwise import Scalars, leafwise, specialize
from gradflow._rules._math import in_range, one_minus_power
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._rules._roles import Mean
from gradflow._rules._state import first_moment, increment, second_moment, zero_scalar
from gradflow._types import MaskOrFn, OptState, Pair, Params, Updates
from gradflow.packed._pack import abstract_tree
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.transforms._keys import check_key, key_state, next_key
from gradflow.tree._paths import is_none
from gradflow.wrappers._conditional import update_if


class HutchinsonState(NamedTuple):
    """The data of the PRNG key of the next estimate."""

    key: jax.Array


class SophiaState(NamedTuple):
    """Steps taken, the averages of the gradient and of the Hessian's diagonal, the estimator's state."""

    count: jax.Array  # type: ignore[assignment]  # the field's name for it, over tuple.count
    mu: Mean
    nu: Mean
    hessian_fn_state: OptState


@transformation(leaves="real")
def hutchinson_estimator_diag_hessian(random_seed: Any = None) -> Pair:
    """Replaces the gradients by an estimate of the diagonal of the loss's Hessian H.

        r = random signs
        u = r * (H r)

    Args:
      random_seed: a PRNG key or an integer; None is 0.

    Its mean over r is the diagonal. One estimate costs about two gradients. `update` needs `params` and the
    extra argument `obj_fn`: the loss as a function of the parameters alone, averaged over all devices. The
    state holds the key's data. Raises TypeError for another kind of seed, and ValueError inside
    `shard_map` where parameters differ along an axis.
    Source: Liu et al. 2023, arXiv:2305.14342, after Hutchinson 1989.
    """
    seed = 0 if random_seed is None else random_seed
    check_key("hutchinson_estimator_diag_hessian", seed)

    def init(params: Params) -> OptState:
        return HutchinsonState(key_state(seed, params))

    def update(
        updates: Updates, state: HutchinsonState, params: Params, *, obj_fn: Any
    ) -> tuple[Updates, HutchinsonState]:
        refuse_varying("a product with the Hessian", params)
        now, later = next_key(seed, state.key)
        signs = tree.random_like(now, params, jax.random.rademacher)
        _, product = jax.jvp(jax.grad(obj_fn), (params,), (signs,))
        diagonal = jax.tree.map(
            lambda g, h, r: None if g is None else h * r, updates, product, signs, is_leaf=is_none
        )
        return diagonal, HutchinsonState(later)

    return init, update


def sophia_scalars(count: jax.Array, b1: jax.Array, **_: Any) -> Scalars:
    """The decay's complement and the bias correction of step `count`, which begins at 1."""
    c1 = 1 - b1
    return {"c1": c1, "debias1": 1 / one_minus_power(c1, count)}


def sophia_rule(
    g: jax.Array, mu: jax.Array, nu: jax.Array, s: Any, *, clipped: bool
) -> tuple[jax.Array, ...]:
    """Liu et al. 2023, Algorithm 3."""
    mu = s.b1 * mu + s.c1 * g
    # Where the curvature is not positive, `eps` leaves the sign of the momentum, which is clipped.
    u = s.debias1 * mu / jnp.maximum(s.gamma * nu, s.eps)
    return jnp.clip(u, -s.clip_threshold, s.clip_threshold) if clipped else in_range(u), mu


def curvature_scalars(b2: jax.Array) -> Scalars:
    """The decay's complement."""
    return {"c2": 1 - b2}


def curvature_rule(h: jax.Array, nu: jax.Array, s: Any) -> tuple[jax.Array, ...]:
    """The average of the estimates; one that is NaN is left out."""
    return h, jnp.where(jnp.isfinite(h), s.b2 * nu + s.c2 * h, nu)


@transformation(reports=("win_rate",), elementwise=True)
def scale_by_sophia(
    b1: Decay = 0.965,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    gamma: Positive = 0.01,
    clip_threshold: Limit | None = 1.0,
    update_interval: Size = 10,
    hessian_diagonal_fn: GradientTransformation = hutchinson_estimator_diag_hessian(),  # noqa: B008 a value
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: Index = 0,
) -> Pair:
    """Divides the averaged gradient by an average of the Hessian's diagonal, and clips.

        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * hessian_diagonal_fn(g)      at steps 1, 1 + update_interval, ...
        u = clip(mu / (1 - b1^t) / max(gamma * nu, eps), -clip_threshold, clip_threshold)

    Args:
      b1: decay of the gradient's average, in [0, 1).
      b2: decay of the diagonal's average, per estimate, in [0, 1).
      eps: least divisor, >= 0.
      gamma: > 0; tune it so that 0.1 to 0.5 of the elements are not clipped.
      clip_threshold: largest step, >= 0; None does not clip.
      update_interval: steps between estimates, >= 1.
      hessian_diagonal_fn: a transformation that returns estimates of the diagonal as updates.
      mu_dtype: dtype of the gradient's average; the parameters' by default.
      verbose: whether to print the win rate.
      print_win_rate_every_n_steps: steps between prints, >= 0; 0 prints nothing.

    Extra arguments go to the estimator, whose default needs `obj_fn` and `params`. Reports `win_rate`, the
    share of elements that are not clipped. Source: Liu et al. 2023, arXiv:2305.14342.
    """
    estimator = as_transformation(hessian_diagonal_fn, "scale_by_sophia", "argument 'hessian_diagonal_fn'")

    def init(params: Params) -> OptState:
        inner = estimator.init(params)
        return SophiaState(zero_scalar(params), first_moment(params, mu_dtype), second_moment(params), inner)

    def estimate(
        updates: Updates, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, Any]:
        nu, inner = state
        diagonal, inner = estimator.update(updates, inner, params, **extra)
        _, nu = leafwise(curvature_rule, (diagonal, nu), curvature_scalars, b2=b2)
        return updates, (nu, inner)

    # The average is updated together with the estimate, so that other steps need neither pass nor copy.
    # The stage is set so that reports of the estimator carry its name.
    estimate.stage = estimator.update.stage  # type: ignore[attr-defined]
    averaged = GradientTransformation(estimator.init, estimate)
    rule = specialize(sophia_rule, clipped=clip_threshold is not None)

    def update(
        updates: Updates, state: SophiaState, params: Params, **extra: Any
    ) -> tuple[Updates, SophiaState]:
        count = increment(state.count)
        due = state.count % update_interval == 0
        both = (state.nu, state.hessian_fn_state)
        # Taken only when it is due, on every platform: the estimate costs as much as a gradient.
        _, (nu, inner) = update_if(
            due, averaged, updates, both, params, extra, elsewhere="pass", keep_branch=True
        )
        bound: dict[str, Any] = {} if clip_threshold is None else {"clip_threshold": clip_threshold}
        u, mu = leafwise(
            rule, (updates, state.mu, nu), sophia_scalars, count=count, b1=b1, eps=eps, gamma=gamma, **bound
        )
        report("win_rate", lambda: _win_rate(u, clip_threshold))
        if verbose and print_win_rate_every_n_steps:
            jax.lax.cond(
                count % print_win_rate_every_n_steps == 0,
                lambda: jax.debug.print("sophia: win rate {}", _win_rate(u, clip_threshold)),
                lambda: None,
            )
        return u, SophiaState(count, mu, nu, inner)

    return init, update


def _win_rate(u: Updates, clip_threshold: Any) -> jax.Array:
    """The share of elements below the bound."""
    refuse_varying("a share", u)
    if clip_threshold is None:
        return jnp.ones((), jnp.float32)
    bound = jnp.asarray(clip_threshold, jnp.float32)
    inside = [jnp.sum(jnp.abs(x).astype(jnp.float32) < bound) for x in jax.tree.leaves(u)]
    return sum(inside, start=jnp.int32(0)).astype(jnp.float32) / max(tree.size(abstract_tree(u)), 1)


@transformation
def sophia(
    learning_rate: Rate,
    b1: Decay = 0.965,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-4,
    weight_decay_mask: MaskOrFn | None = None,
    gamma: Positive = 0.01,
    clip_threshold: Limit | None = 1.0,
    update_interval: Size = 10,
    hessian_diagonal_fn: GradientTransformation = hutchinson_estimator_diag_hessian(),  # noqa: B008 a value
    mu_dtype: Any = None,
    verbose: bool = False,
    print_win_rate_every_n_steps: Index = 0,
) -> GradientTransformation:
    """Sophia: `scale_by_sophia`, decoupled weight decay, then the learning rate.

    Args:
      weight_decay: >= 0; 0.2 in the paper.
      weight_decay_mask: tree of booleans, or a function from the parameters to one: where to decay.

    The others as in `scale_by_sophia`. `update` needs `params` and the extra argument `obj_fn`, the loss as a
    function of the parameters alone; the step of `make_step` passes it.
    """
    return chain(
        scale_by_sophia(
            b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn, mu_dtype,
            verbose, print_win_rate_every_n_steps,
        ),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )  # fmt: skip

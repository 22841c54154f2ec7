"""Updates only where they agree with the gradient."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradflow._core._decorators import transformation
from gradflow._core._rates import rate_inside
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._rules._leafwise import leafwise, specialize
from gradflow._rules._math import kept_in_range
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._types import OptState, Pair, Params, Updates


def cautious_rule(u: jax.Array, g: jax.Array, s: Any, *, scaling: str) -> jax.Array:
    """Liang et al. 2024, Algorithm 2. Signs are compared, since a product may underflow."""
    agreement = (jnp.sign(u) * jnp.sign(g).conj()).real
    kept = jnp.sum(agreement > 0, dtype=s.one.dtype)
    if scaling == "count":
        factor = u.size / (kept + 1)
    elif scaling == "mean":
        factor = 1 / jnp.maximum(kept / max(u.size, 1), 1e-3)
    else:
        factor = s.one
    # So put, an update that is NaN stays so.
    return jnp.where(agreement <= 0, 0, kept_in_range(factor * u, u))


@transformation
def cautious(inner: GradientTransformation, scaling: Literal["count", "mean", "none"] = "count") -> Pair:
    """Drops the parts of `inner`'s update that point against the gradient, and scales up the rest.

        u = inner(g),  kept = number of places with u * g > 0, of size
        u = (u * g > 0) * u * size / (kept + 1)                    "count", as in the paper
        u = (u * g > 0) * u / max(kept / size, 1e-3)               "mean", as in the authors' later code

    Args:
      inner: the scaling of the gradient, without the learning rate and without weight decay:
        `chain(cautious(scale_by_adam()), add_decayed_weights(0.1), scale_by_learning_rate(rate))`.
      scaling: "count", "mean", or "none". The counts are those of each leaf.

    Raises ValueError for an `inner` that applies the learning rate, whose sign is that of the step, and
    inside `shard_map` on updates that differ between devices. Source: Liang et al. 2024, arXiv:2411.16085.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.cautious(gf.scale_by_adam()), gf.scale_by_learning_rate(1e-3)))
    chain(cautious(scale_by_adam()), scale_by_learning_rate(0.001))
    """
    rate = rate_inside(inner)
    if rate is not None:
        raise ValueError(
            f"cautious: argument 'inner' must not apply the learning rate; got one with {rate}, "
            "and a step and its gradient have opposite signs. Wrap the stages before the rate, as in "
            "chain(cautious(scale_by_adam()), scale_by_learning_rate(rate))."
        )
    if scaling not in ("count", "mean", "none"):
        raise ValueError(
            f"cautious: argument 'scaling' must be 'count', 'mean' or 'none'; got {describe(scaling)}"
        )
    rule = specialize(cautious_rule, scaling=scaling)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        refuse_varying("a count of signs", updates)
        u, state = inner.update(updates, state, params, **extra)
        return leafwise(rule, (u, updates), one=1.0)[0], state

    return inner.init, update

"""Aggregation of per-example gradients with differential privacy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow._calls._checks import check_like
from gradflow._calls._context import stage_name
from gradflow._calls._reports import report
from gradflow._core._decorators import transformation
from gradflow._dtypes import in_dtype_of
from gradflow._errors import describe
from gradflow._expressions._arguments import NonNegative, Positive
from gradflow._rules._leafwise import Scalars, leafwise
from gradflow._rules._mesh_axes import refuse_varying
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.transforms._keys import key_state, next_keys_like, normal_with_keys, read_key
from gradflow.transforms._per_example import per_example_global_norm_clip


class DifferentiallyPrivateAggregateState(NamedTuple):
    """The data of the PRNG key of the next step."""

    rng_key: jax.Array


def private_scalars(l2_norm_clip: jax.Array, noise_multiplier: jax.Array, size: jax.Array) -> Scalars:
    """The standard deviation of the noise on the sum, and the factor from sum to mean."""
    return {"deviation": l2_norm_clip * noise_multiplier, "share": 1 / size}


def private_rule(total: jax.Array, sample: jax.Array, s: Any) -> jax.Array:
    """Abadi et al. 2016, Algorithm 1."""
    return s.share * (total + s.deviation * sample)


@transformation(trees="structure", reports=("clipped",))
def differentially_private_aggregate(
    l2_norm_clip: Positive, noise_multiplier: NonNegative, key: Any = None, *, seed: Any = None
) -> Pair:
    """Clips the gradient of each example, adds noise to the sum, and divides by the number of examples.

        g[i] = g[i] * min(1, l2_norm_clip / |g[i]|)
        u = (sum of g[i] + l2_norm_clip * noise_multiplier * N(0, 1)) / examples

    Gradients have the examples along their first axis, as from `jax.vmap(jax.grad(loss), (None, 0))`. The
    updates do not have this axis, so it must be the first stage of a chain.

    Args:
      l2_norm_clip: the largest norm of one example's gradient over all leaves, > 0.
      noise_multiplier: standard deviation of the noise as a multiple of that norm, >= 0.
      key: a PRNG key, `jax.random.key(0)`, or an integer seed. It has no default.
      seed: another name of `key`.

    Reports `clipped`, the share of clipped examples. Raises TypeError for another kind of key. Raises
    ValueError inside `shard_map`, and for leaves without the axis or with different numbers of examples.
    Source: Abadi et al. 2016, arXiv:1607.00133.

    >>> import gradflow as gf
    >>> print(gf.chain(gf.differentially_private_aggregate(1.0, 1.1, key=0), gf.sgd(0.1)))
    chain(differentially_private_aggregate(1.0, 1.1, key=0), sgd(0.1))
    """
    key = read_key("differentially_private_aggregate", key, seed, required=True)

    def init(params: Params) -> OptState:
        return DifferentiallyPrivateAggregateState(key_state(key, params))

    def update(
        updates: Updates, state: DifferentiallyPrivateAggregateState, params: Params | None = None
    ) -> tuple[Updates, DifferentiallyPrivateAggregateState]:
        refuse_varying("a norm", updates)
        total, clipped = per_example_global_norm_clip(updates, l2_norm_clip)
        if params is not None:
            check_like("one example's gradient", total, "params", params)
        examples = next((g.shape[0] for g in jax.tree.leaves(updates)), 1)
        if examples == 0:
            first = describe(jax.tree.leaves(updates)[0])
            raise ValueError(f"{stage_name()}: updates must have at least one example; got {first}")
        keys, later = next_keys_like(key, state.rng_key, total)
        (u,) = leafwise(
            private_rule, (total, normal_with_keys(keys, total)), private_scalars,
            l2_norm_clip=l2_norm_clip, noise_multiplier=noise_multiplier, size=float(examples),
        )  # fmt: skip
        report("clipped", lambda: clipped.astype(jnp.float32) / examples)
        return jax.tree.map(in_dtype_of, u, updates), DifferentiallyPrivateAggregateState(later)

    return init, update

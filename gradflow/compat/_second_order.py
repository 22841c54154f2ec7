"""Products with the Hessian of `loss(params, inputs, targets)`, and diagonals, as flat vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


def hvp(loss: Callable[..., jax.Array], v: jax.Array, params: Any, inputs: Any, targets: Any) -> Any:
    """The Hessian of the loss times the flat vector `v`, as a tree like `params`."""
    _, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda p: loss(p, inputs, targets))
    return jax.jvp(gradient, (params,), (unravel(v),))[1]


def hessian_diag(loss: Callable[..., jax.Array], params: Any, inputs: Any, targets: Any) -> jax.Array:
    """The diagonal of the Hessian, by one product for each parameter."""
    flat, _ = ravel_pytree(params)

    def entry(unit: jax.Array) -> jax.Array:
        return jnp.sum(unit * ravel_pytree(hvp(loss, unit, params, inputs, targets))[0])

    return jax.lax.map(entry, jnp.eye(flat.size, dtype=flat.dtype))


def fisher_diag(
    negative_log_likelihood: Callable[..., jax.Array], params: Any, inputs: Any, targets: Any
) -> jax.Array:
    """The squared gradient of the negative log likelihood."""
    gradient = jax.grad(negative_log_likelihood)(params, inputs, targets)
    return jnp.square(ravel_pytree(gradient)[0])

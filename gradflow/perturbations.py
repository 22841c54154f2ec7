"""Derivatives of piecewise constant functions, by averages over noise."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import ARRAY, DTYPE, FLAG, FUNCTION, KEY, SHAPE, Number, checked
from gradflow._dtypes import compute_dtype, is_inexact, promote
from gradflow._errors import describe
from gradflow.tree._leaves import floating_leaves

__all__ = [
    "Gumbel",
    "Noise",
    "Normal",
    "make_perturbed_fun",
]


class Noise(Protocol):
    """A distribution over the real numbers, with a differentiable density."""

    @checked(key=KEY, sample_shape=SHAPE, dtype=DTYPE)
    def sample(self, key: Any, sample_shape: Sequence[int] = (), dtype: Any = float) -> jax.Array:
        """Independent draws of shape `sample_shape`."""
        ...

    @checked(inputs=ARRAY)
    def log_prob(self, inputs: jax.Array) -> jax.Array:
        """The logarithm of the density at each element of `inputs`."""
        ...


@dataclasses.dataclass(frozen=True)
class Gumbel:
    """The standard Gumbel distribution, density `exp(-z - exp(-z))`, mean 0.5772."""

    @checked(key=KEY, sample_shape=SHAPE, dtype=DTYPE)
    def sample(self, key: Any, sample_shape: Sequence[int] = (), dtype: Any = float) -> jax.Array:
        """Independent draws of shape `sample_shape`."""
        return jax.random.gumbel(key, tuple(sample_shape), dtype)

    @checked(inputs=ARRAY)
    def log_prob(self, inputs: jax.Array) -> jax.Array:
        """`-z - exp(-z)` for each element."""
        return -inputs - jnp.exp(-inputs)


@dataclasses.dataclass(frozen=True)
class Normal:
    """The standard normal distribution, density `exp(-z^2 / 2) / sqrt(2 pi)`."""

    @checked(key=KEY, sample_shape=SHAPE, dtype=DTYPE)
    def sample(self, key: Any, sample_shape: Sequence[int] = (), dtype: Any = float) -> jax.Array:
        """Independent draws of shape `sample_shape`."""
        return jax.random.normal(key, tuple(sample_shape), dtype)

    @checked(inputs=ARRAY)
    def log_prob(self, inputs: jax.Array) -> jax.Array:
        """`-(z^2 + log(2 pi)) / 2` for each element."""
        return -0.5 * (inputs * inputs + math.log(2 * math.pi))


@checked(fun=FUNCTION, num_samples=Number(1, 2**31 - 1, whole=True, static=True), use_baseline=FLAG)
def make_perturbed_fun(
    fun: Callable[[Any], Any],
    num_samples: int = 1000,
    sigma: Any = 0.1,
    noise: Noise = Gumbel(),
    use_baseline: bool = True,
) -> Callable[[Any, Any], Any]:
    """Builds `f(key, x)`, a differentiable estimate of `E[fun(x + sigma z)]`.

        f = mean of fun(x + sigma z) over num_samples draws of z
        grad = E[(fun(x + sigma z) - b) * -(log p)'(z)] / sigma

    Derivatives of any order with respect to `x` and `sigma` are unbiased estimates of those of the
    expectation. They use values of `fun` only. Variables that `fun` closes over have ordinary derivatives.

    Args:
      fun: tree to tree; it is vmapped. Integer and boolean results become float32 averages.
      num_samples: draws per call, >= 1.
      sigma: scale of the noise, > 0.
      noise: an object with the methods `sample` and `log_prob`.
      use_baseline: True subtracts `b = fun(x)`, which lowers the variance; False has `b = 0`.

    Raises TypeError for leaves of `x` that are not real and floating point. Sums are in float32 or wider.
    Sources: Berthet et al., "Learning with Differentiable Perturbed Optimizers", 2020, arXiv:2002.08676;
    Foerster et al., "DiCE", 2018, arXiv:1802.05098, for all orders.
    """
    _check(sigma, noise)
    samples = int(num_samples)

    def perturbed(key: Any, x: Any) -> Any:
        KEY.check("make_perturbed_fun", "key' of 'f(key, x)", key)
        leaves, treedef = floating_leaves("make_perturbed_fun", "x' of 'f(key, x)", x)
        if not leaves:
            return jax.tree.map(lambda v: _average(jnp.asarray(v)[None], jnp.ones(1)), fun(x))
        scale = jnp.asarray(sigma)
        # A key per sample, then one per leaf: samples do not depend on how many are drawn at a time.
        keys = jax.vmap(lambda k: jax.random.split(k, len(leaves)))(jax.random.split(key, samples))
        points, densities = [], []
        for index, leaf in enumerate(leaves):
            wide = leaf.astype(compute_dtype(leaf.dtype))
            spread = scale.astype(wide.dtype)
            center, fixed_spread = jax.lax.stop_gradient((wide, spread))
            z = _draw(noise, keys[:, index], leaf.shape, wide.dtype)
            # The samples are constants; only their density depends on x and sigma.
            points.append((center[None] + fixed_spread * z).astype(leaf.dtype))
            standard = (fixed_spread * z + (center - wide)[None]) / spread
            density = noise.log_prob(standard) - jnp.log(spread)
            densities.append(jnp.sum(density, axis=tuple(range(1, density.ndim))))
        widest = functools.reduce(promote, [d.dtype for d in densities])
        log_density = functools.reduce(jnp.add, [d.astype(widest) for d in densities])
        # Its value is one; its derivatives are those of the likelihood divided by it.
        likelihood = jnp.exp(log_density - jax.lax.stop_gradient(log_density))
        values = jax.vmap(fun)(jax.tree.unflatten(treedef, points))
        if not use_baseline:
            return jax.tree.map(lambda v: _average(v, likelihood), values)
        # The derivative of the likelihood has mean zero, so the expectation does not change.
        baseline = fun(jax.tree.unflatten(treedef, jax.lax.stop_gradient(leaves)))
        return jax.tree.map(lambda v, b: _average(v, likelihood, b), values, baseline)

    return perturbed


def _draw(noise: Noise, keys: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.vmap(lambda key: noise.sample(key, shape, dtype))(keys)


def _average(values: jax.Array, likelihood: jax.Array, baseline: Any = None) -> jax.Array:
    dtype = np.dtype(values.dtype if is_inexact(values.dtype) else jnp.float32)
    wide = compute_dtype(dtype)
    values = values.astype(wide)
    column = likelihood.astype(wide).reshape(-1, *[1] * (values.ndim - 1))
    weighted = column * values
    if baseline is not None:
        constant = jnp.asarray(baseline).astype(wide)
        constant = jnp.where(jnp.isfinite(constant), constant, 0)  # 0 * inf would be NaN
        weighted = weighted - (column - 1) * constant[None]
    return jnp.mean(weighted, axis=0).astype(dtype)


def _check(sigma: Any, noise: Any) -> None:
    name = "make_perturbed_fun"
    Number(nan=True).check(name, "sigma", sigma)
    if not isinstance(sigma, jax.Array) and not 0 < sigma < np.inf:
        raise ValueError(f"{name}: argument 'sigma' must be > 0 and finite; got {sigma}")
    for method in ("sample", "log_prob"):
        if isinstance(noise, type) or not callable(getattr(noise, method, None)):
            raise TypeError(
                f"{name}: argument 'noise' must be an object with the methods sample and log_prob,"
                f" such as Gumbel(); got {describe(noise)}"
            )

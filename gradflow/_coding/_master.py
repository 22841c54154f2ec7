"""What is kept of a weight beside its bfloat16 or float16 parameter, and where a float32 weight lands.

`Form.wide(p, kept)` is the float32 weight. `Form.land(w, p, kept, seed)` is the parameter for a new one, as
a float32 number that its dtype holds, and what to keep of the rest.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._coding._random import uniform
from gradflow._shardings import with_sharding_of

_LEAST_EXPONENT = -120  # the spacing of numbers, its inverse and 1/256 of it are normal float32 numbers


class Form(NamedTuple):
    """A way to keep a weight: the dtype of what is kept, None for nothing, and its two directions."""

    kept: Callable[[np.dtype], Any]
    wide: Callable[[jax.Array, Any], jax.Array]
    land: Callable[[jax.Array, jax.Array, Any, jax.Array], tuple[jax.Array, Any]]


def spacing(x: jax.Array, dtype: np.dtype) -> jax.Array:
    """The distance between the neighbors of the float32 numbers `x` in a narrower dtype, a power of two."""
    info = jnp.finfo(dtype)
    exponent = (jax.lax.bitcast_convert_type(x, jnp.int32) >> 23) & 255
    least = max(int(np.log2(float(info.smallest_subnormal))), _LEAST_EXPONENT)
    exponent = jnp.clip(exponent - info.nmant, least + 127, 254)
    return jax.lax.bitcast_convert_type(exponent << 23, jnp.float32)


def on_grid(w: jax.Array, dtype: np.dtype, seed: jax.Array | None = None) -> jax.Array:
    """The float32 numbers `w` as numbers of a narrower dtype: the nearest, or with a seed a neighbor.

    A conversion and back would not do: XLA may leave out the pair.
    """
    step = spacing(w, dtype)
    places = w / step
    whole = jnp.round(places) if seed is None else jnp.floor(places + uniform(seed, w))
    largest = np.asarray(jnp.finfo(dtype).max, np.float32)
    return jnp.where(jnp.abs(w) < np.inf, jnp.clip(whole * step, -largest, largest), w)


def _wide_master(p: jax.Array, kept: jax.Array) -> jax.Array:
    # A parameter that something else changed since the last step is the weight.
    return jnp.where(on_grid(kept, p.dtype) == p.astype(jnp.float32), kept, p.astype(jnp.float32))


def _land_master(w: jax.Array, p: jax.Array, kept: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
    return on_grid(w, p.dtype), w


def _wide_split(p: jax.Array, kept: jax.Array) -> jax.Array:
    p32 = p.astype(jnp.float32)
    return p32 + kept.astype(jnp.float32) * (spacing(p32, p.dtype) * np.float32(2.0**-8))


def _land_split(w: jax.Array, p: jax.Array, kept: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
    landed, rest = _parts(w, p.dtype)
    return landed, jnp.clip(jnp.floor(rest * 256 + uniform(seed, w)), -128, 127).astype(jnp.int8)


def _wide_kahan(p: jax.Array, kept: jax.Array) -> jax.Array:
    p32 = p.astype(jnp.float32)
    return p32 + kept.astype(jnp.float32) * spacing(p32, p.dtype)


def _land_kahan(w: jax.Array, p: jax.Array, kept: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
    # In units of the gap: float16 has no digits for the rest of a small weight itself.
    landed, rest = _parts(w, p.dtype)
    return landed, rest.astype(p.dtype)


def _parts(w: jax.Array, dtype: np.dtype) -> tuple[jax.Array, jax.Array]:
    """The nearest number of a dtype, and the rest in gaps, from -1/2 to 1/2; 0 beyond the dtype's range."""
    landed = on_grid(w, dtype)
    rest = (w - landed) / spacing(landed, dtype)
    return landed, jnp.where(jnp.abs(rest) <= 0.5, rest, 0)


def _wide_stochastic(p: jax.Array, kept: Any) -> jax.Array:
    return p.astype(jnp.float32)


def _land_stochastic(w: jax.Array, p: jax.Array, kept: Any, seed: jax.Array) -> tuple[jax.Array, Any]:
    return on_grid(w, p.dtype, seed), kept


FORMS: Mapping[str, Form] = {
    "master": Form(lambda dtype: np.float32, _wide_master, _land_master),
    "split": Form(lambda dtype: np.int8, _wide_split, _land_split),
    "kahan": Form(lambda dtype: dtype, _wide_kahan, _land_kahan),
    "stochastic": Form(lambda dtype: None, _wide_stochastic, _land_stochastic),
}


def first_kept(form: str, p: jax.Array) -> Any:
    """What is kept of the weight `p` before the first step; None where nothing is."""
    dtype = FORMS[form].kept(p.dtype)
    if dtype is None:
        return None
    return p.astype(dtype) if form == "master" else with_sharding_of(jnp.zeros_like(p, dtype=dtype), p)

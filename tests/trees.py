"""Trees on which the laws are tested."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SHAPES: dict[str, Any] = {
    "matrix": (3, 4),
    "bias": (4,),
    "scalar": (),
    "one": (1,),
    "empty": (0, 2),
    "deep": [{"kernel": (2, 1, 2, 1, 3)}],
}


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def filled(seed: int, dtype: Any = jnp.float32) -> Any:
    """A tree of every awkward shape, with None among its leaves, filled with normal numbers."""
    rng = np.random.default_rng(seed)
    dtypes = iter(dtype) if isinstance(dtype, list) else None

    def fill(shape: tuple[int, ...]) -> jax.Array:
        kind = next(dtypes) if dtypes is not None else dtype
        numbers = rng.normal(size=shape)
        if jnp.issubdtype(kind, jnp.complexfloating):
            numbers = numbers + 1j * rng.normal(size=shape)
        return jnp.asarray(numbers, kind)

    tree = jax.tree.map(fill, SHAPES, is_leaf=_is_shape)
    return {**tree, "absent": None}


MIXED = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float32, jnp.bfloat16, jnp.float16]
MIXED_OTHER = [jnp.bfloat16, jnp.float16, jnp.float16, jnp.bfloat16, jnp.float32, jnp.float32]


def small(seed: int, dtype: Any = jnp.float32) -> Any:
    """A small ordinary tree, for laws about numbers rather than shapes."""
    rng = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(rng.normal(size=(4, 3)), dtype),
        "bias": jnp.asarray(rng.normal(size=(3,)), dtype),
    }

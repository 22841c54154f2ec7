"""Names that the tables of wrong inputs use in their calls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from gradflow import (
    assignment,
    checkpoint,
    interop,
    lab,
    linalg,
    losses,
    matrices,
    microbatching,
    numerics,
    packed,
    perturbations,
    projections,
    tree,
)

_TREE = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}
_ADAM = gf.adam(0.1)

NAMES: dict[str, Any] = {
    "gf": gf, "jax": jax, "jnp": jnp, "np": np, "matrices": matrices, "tree": tree, "losses": losses,
    "projections": projections,
    "perturbations": perturbations, "assignment": assignment, "linalg": linalg, "numerics": numerics,
    "microbatching": microbatching, "packed": packed, "lab": lab, "interop": interop, "checkpoint": checkpoint,
    "T": _TREE, "WRONG_TREE": {"a": jnp.ones((2, 3)), "c": jnp.ones(3)},
    "ADAM": _ADAM, "STATE": _ADAM.init(_TREE),
    "KEY": jax.random.key(0), "NAN": float("nan"), "OBJECT": object(),
    "SQUARE": jnp.ones((2, 2)), "FLAGS": jnp.array([True, False]),
    "X": jnp.ones((2, 3)), "P": jnp.full((2, 3), 1 / 3), "Y": jnp.array([0, 2]), "Y2": jnp.array([[1], [2]]),
    "NO_PADDING": jnp.zeros((2, 1)),
    "FRAMES": jnp.zeros((2, 4, 3)), "IMAGES": jnp.full((2, 3, 3, 2), 0.5),
}  # fmt: skip

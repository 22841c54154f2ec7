"""Where an answer has all digits of float32, its products ask for them: by default a GPU keeps ten bits."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from program_size import every_equation

import gradflow as gf

X = jnp.ones((6, 8), jnp.float32)
A = jnp.ones((3, 8), jnp.float32)


def _solution(theta: Any) -> Any:
    def loss(w: Any) -> Any:
        return jnp.sum((w - theta) ** 2)

    return gf.minimize(loss, jnp.zeros(4), gf.lbfgs(), max_steps=2, implicit=True).params


def _bounded_step(x: Any) -> Any:
    tx = gf.lbfgsb(-1.0, 1.0, memory_size=2)
    return tx.update(x, tx.init(x), x, value=jnp.sum(x), grad=x, value_fn=jnp.sum)


def _every_derivative(function: Any, *args: Any) -> Any:
    return jax.vmap(jax.grad(lambda x: jnp.sum(function(x))))(*args)


CASES = {
    "projection_affine_set": lambda x: gf.projections.projection_affine_set(x, A, jnp.ones(3), axis=1),
    "projection_transport": lambda x: _every_derivative(gf.projections.projection_birkhoff, x[None, :6, :6]),
    "nuclear_norm_penalty": lambda x: gf.nuclear_norm_penalty(0.1)(x, 0.1),
    "implicit derivatives": lambda x: jax.jacobian(_solution)(x[0, :4]),
    "lbfgsb": _bounded_step,
    "largest_eigenvector": lambda x: jax.jacobian(lambda a: gf.linalg.power_iteration(a)[1])(x[:, :6]),
}


@pytest.mark.parametrize("name", CASES)
def test_products_have_all_digits(name: str) -> None:
    program = every_equation(jax.make_jaxpr(CASES[name])(X).jaxpr)
    asked = [e.params["precision"] for e in program if e.primitive.name == "dot_general"]
    highest = jax.lax.Precision.HIGHEST
    assert asked
    assert set(asked) == {(highest, highest)}

"""`linalg.refresh`: only the branch that is taken runs, and a value that is not finite is not taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.linalg import refresh


def _double(old: Any, x: Any) -> Any:
    return {"a": x * 2.0, "n": old["n"] + 1}


OLD = {"a": jnp.full((2,), 7.0), "n": jnp.asarray(3, jnp.int32)}


@pytest.mark.parametrize(("due", "a", "n"), [(True, 4.0, 4), (False, 7.0, 3), (2, 4.0, 4)])
def test_the_old_value_stays_until_it_is_due(due: Any, a: float, n: int) -> None:
    new = jax.jit(lambda x: refresh(due, _double, OLD, x))(jnp.full((2,), 2.0))
    np.testing.assert_array_equal(new["a"], a)
    assert new["n"] == n


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_not_taken(bad: float) -> None:
    new = refresh(True, _double, OLD, jnp.asarray([1.0, bad]))
    jax.tree.map(np.testing.assert_array_equal, new, OLD)


def test_a_batch_keeps_its_conditional_and_each_element_its_own() -> None:
    def step(due: Any, x: Any) -> Any:
        return refresh(due, lambda old, x: jnp.linalg.eigh(x @ x.T)[1], jnp.zeros((3, 3)), x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 3)), jnp.float32)
    due = jnp.asarray([True, False, True, False])
    batched = jax.jit(jax.vmap(step))
    text = batched.lower(due, x).as_text()
    assert text.count("stablehlo.case") == 1
    new = batched(due, x)
    for i in range(4):
        np.testing.assert_array_equal(new[i], step(due[i], x[i]))


def test_nothing_is_differentiated_and_the_rest_is() -> None:
    def f(x: Any) -> Any:
        return jnp.sum(x * refresh(True, lambda old, x: x * x, jnp.zeros((2,)), x))

    np.testing.assert_allclose(jax.grad(f)(jnp.asarray([2.0, 3.0])), [4.0, 9.0])


def test_galore_keeps_its_conditional_in_a_sweep() -> None:
    tx = gf.scale_by_galore(2, 10, base_optimizer=gf.identity())
    g = jnp.ones((3, 4, 6))
    state = jax.vmap(tx.init)(g)
    assert jax.jit(jax.vmap(tx.update)).lower(g, state).as_text().count("stablehlo.case") == 1

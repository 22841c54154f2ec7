"""with_loss_scale against its equations; make_step and minimize multiply the loss by themselves."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

X = np.random.default_rng(0).normal(size=(64, 8))
Y = X @ np.random.default_rng(1).normal(size=(8, 2))


def walk(tx: Any, grads: list[float]) -> list[tuple[float, int, int, float]]:
    """Factor, good and skipped steps and the update, after each gradient."""
    state = tx.init(jnp.ones(()))
    update = jax.jit(tx.update)
    seen = []
    for g in grads:
        u, state = update(jnp.float32(g), state, jnp.ones(()))
        seen.append((float(state.scale), int(state.good), int(state.skipped), float(u)))
    return seen


def test_the_factor_by_its_equations() -> None:
    seen = walk(gf.with_loss_scale(gf.sgd(0.5), 8.0, 2, 4.0), [16.0, np.nan, 2.0, 4.0, 8.0, np.inf, -np.inf])
    assert seen == [
        (8.0, 1, 0, -1.0),
        (2.0, 0, 1, 0.0),
        (2.0, 1, 1, -0.5),
        (8.0, 0, 1, -1.0),
        (8.0, 1, 1, -0.5),
        (2.0, 0, 2, 0.0),
        (0.5, 0, 3, 0.0),
    ]
    static = walk(gf.with_loss_scale(gf.sgd(0.5), 8.0, None), [16.0, np.nan, 16.0])
    assert static == [(8.0, 1, 0, -1.0), (8.0, 0, 1, 0.0), (8.0, 1, 1, -1.0)]


def test_the_factor_has_bounds() -> None:
    assert walk(gf.with_loss_scale(gf.sgd(1.0), 2.0**60, 1), [1.0])[0][0] == 2.0**60
    assert walk(gf.with_loss_scale(gf.sgd(1.0), 2.0**-60, 1), [np.nan])[0][0] == 2.0**-60


def test_a_skipped_step_leaves_the_inner_state_and_reports() -> None:
    tx = gf.with_metrics(gf.with_loss_scale(gf.adam(0.1), 4.0))
    params = jnp.ones(3)
    state = tx.init(params)
    _, after = tx.update(jnp.asarray([1.0, np.nan, 1.0]), state, params)
    for old, new in zip(*map(jax.tree.leaves, (state.inner_state.inner_state, after.inner_state.inner_state)),
                        strict=True):  # fmt: skip
        np.testing.assert_array_equal(old, new)
    seen = gf.metrics(after)
    assert (seen["scale"], seen["good"], seen["skipped"]) == (4, 0, 1)


def test_gradients_are_wide_before_the_division() -> None:
    """The smallest number of float16 divided by 2^15 is not zero; the update has its gradient's dtype."""
    seen = []

    def look(g: Any, params: Any) -> Any:
        seen.append(g.dtype)
        return jax.tree.map(lambda x: x * 2.0**15, g)

    tx = gf.with_loss_scale(gf.stateless(look))
    g = jnp.asarray([2.0**-24, 1.0], jnp.float16)
    u, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_array_equal(u, g)
    assert (u.dtype, seen[0]) == (jnp.float16, jnp.float32)


def loss(params: Any, x: Any, y: Any) -> jax.Array:
    """A loss so small that its gradients in float16 are zero."""
    return jnp.mean((x @ params["w"] - y) ** 2) * jnp.asarray(2.0**-16, params["w"].dtype)


def trained(tx: Any, dtype: Any) -> tuple[float, Any]:
    params = {"w": jnp.zeros((8, 2), dtype)}
    step = gf.make_step(loss, tx)

    @jax.jit
    def run(params: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            params, state, result = step(*carry, jnp.asarray(X, dtype), jnp.asarray(Y, dtype))
            return (params, state), result.value

        return jax.lax.scan(body, (params, tx.init(params)), length=200)

    (params, state), values = run(params)
    assert values.dtype == dtype
    return float(np.mean((X @ np.asarray(params["w"], np.float64) - Y) ** 2)), state


def test_training_in_float16_needs_it() -> None:
    first = float(np.mean(Y**2))
    rate = 0.2 * 2.0**16
    plain, _ = trained(gf.sgd(rate), jnp.float32)
    lost, _ = trained(gf.sgd(rate), jnp.float16)
    scaled, state = trained(gf.with_loss_scale(gf.master_params(gf.sgd(rate)), 2.0**10, 20), jnp.float16)
    assert plain < 1e-5 * first
    assert lost > 10 * scaled
    assert scaled < 1e-4 * first
    assert state.scale > 2.0**10
    assert jax.tree.leaves(state.inner_state.weights)[0].dtype == jnp.float32


def test_make_step_passes_value_and_gradient_of_the_loss_itself() -> None:
    heard: dict[str, Any] = {}

    @gf.transformation
    def listener() -> Any:
        def update(
            updates: Any, state: Any, params: Any = None, *, value: Any, grad: Any, value_fn: Any
        ) -> Any:
            heard.update(updates=updates, value=value, grad=grad, there=value_fn(params))
            return updates, state

        return gf.init_empty_state, update

    tx = gf.chain(listener(), gf.with_loss_scale(gf.sgd(0.25), 4.0))
    x = jnp.asarray([1.0, 2.0])
    to, _, result = gf.make_step(lambda x: (jnp.sum(x**2), "aux"), tx, has_aux=True)(x, tx.init(x))
    assert (result.value, result.aux, heard["value"], heard["there"]) == (5, "aux", 5, 5)
    np.testing.assert_array_equal([heard["grad"], heard["updates"], to], [2 * x, 8 * x, 0.5 * x])
    found = gf.minimize(lambda x: jnp.sum((x - 1) ** 2), x, gf.with_loss_scale(gf.sgd(0.25)), 30)
    assert found.converged


def test_the_factor_of_a_state() -> None:
    params = jnp.ones(2)
    assert gf.loss_scale(gf.adam(0.1).init(params)) == 1
    tx = gf.MultiSteps(gf.apply_if_finite(gf.with_loss_scale(gf.adam(0.1), 4.0), 3), 2)
    assert gf.loss_scale(tx.init(params)) == 4
    for two in (
        gf.chain(gf.with_loss_scale(gf.scale(1.0)), gf.with_loss_scale(gf.scale(1.0))),
        gf.with_loss_scale(gf.with_loss_scale(gf.scale(1.0))),
    ):
        with pytest.raises(ValueError, match="must have one factor of the loss; got the states of two"):
            gf.loss_scale(two.init(params))

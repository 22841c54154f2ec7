"""master_params against its equations in NumPy, and what becomes of small steps without it."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import gradflow as gf
from gradflow._coding._master import on_grid, spacing

DTYPES = [ml_dtypes.bfloat16, np.float16]
RNG = np.random.default_rng(0)
START = (RNG.normal(size=(40, 8)) * np.exp(RNG.normal(size=(40, 8)))).astype(np.float32)
FORMS = ("master", "split", "kahan", "stochastic")


def trained(form: str, dtype: Any, steps: np.ndarray) -> tuple[np.ndarray, Any]:
    """The parameters after each of the steps, and the last state."""
    tx = gf.master_params(gf.scale(-1.0), form)
    params = jnp.asarray(START.astype(dtype))

    def step(carry: Any, change: jax.Array) -> Any:
        params, state = carry
        updates, state = tx.update(change, state, params)
        assert updates.dtype == jnp.float32
        params = gf.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), jnp.asarray(-steps)))(params)
    return np.asarray(path), state


# A fifth of these steps are larger than their parameter.
STEPS = (START * RNG.normal(size=(30, 40, 8)) * 0.8).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equations(dtype: Any) -> None:
    """Parameters are the rounded weights, and Kahan's rest is what rounding left, in gaps."""

    def gaps(p: np.ndarray) -> np.ndarray:
        digits, least = (7, -120) if dtype is ml_dtypes.bfloat16 else (10, -24)
        exponent = np.frexp(p.astype(np.float32))[1] - 1 - digits
        return np.ldexp(np.float32(1), np.maximum(exponent, least))

    path, state = trained("master", dtype, STEPS)
    w = START.astype(dtype).astype(np.float32)
    for step, p in zip(STEPS, path, strict=True):
        w = w + step
        np.testing.assert_array_equal(p, w.astype(dtype))
    np.testing.assert_array_equal(state.weights, w)
    path, state = trained("kahan", dtype, STEPS)
    p, rest = START.astype(dtype), np.zeros_like(START, dtype)
    for step, got in zip(STEPS, path, strict=True):
        w = p.astype(np.float32) + rest.astype(np.float32) * gaps(p) + step
        p = w.astype(dtype)
        rest = ((w - p.astype(np.float32)) / gaps(p)).astype(dtype)
        np.testing.assert_array_equal(got, p)
    np.testing.assert_array_equal(state.weights, rest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_smaller_than_a_gap_add_up(dtype: Any) -> None:
    """300 steps of a hundredth of a gap; rounded to nearest, all would be lost."""
    gap = np.asarray(spacing(jnp.asarray(START), np.dtype(dtype)))
    share = np.linspace(0.005, 0.02, START.size, dtype=np.float32).reshape(START.shape)
    steps = np.broadcast_to(gap * share, (300, *START.shape))
    exact = START.astype(dtype).astype(np.float64) + 300 * (gap * share).astype(np.float64)
    most = {"master": 1.01, "split": 1.1, "kahan": 1.1, "stochastic": 7.0}  # gaps, of one parameter
    mean = {"master": 0.05, "split": 0.05, "kahan": 0.1, "stochastic": 0.3}
    for form in FORMS:
        path, state = trained(form, dtype, steps)
        off = (path[-1].astype(np.float64) - exact) / gap
        assert np.max(np.abs(off)) < most[form], form
        assert np.abs(np.mean(off)) < mean[form], form
        size = {"master": 4, "split": 1, "kahan": 2, "stochastic": 0}[form]
        assert sum(x.nbytes for x in jax.tree.leaves(state)) <= size * START.size + 16
    plain = jnp.asarray(START.astype(dtype))
    assert np.all(np.asarray(gf.apply_updates(plain, jnp.asarray(steps[0]))) == np.asarray(plain))


def test_rounding_is_that_of_the_dtype() -> None:
    """To nearest as a conversion; with a seed one of two neighbors, in the mean the number itself."""
    x = np.concatenate([START.ravel(), START.ravel() * 1e-6, [0.0, 1e6, -1e6, np.inf]]).astype(np.float32)
    for dtype in map(np.dtype, DTYPES):
        largest = np.float32(ml_dtypes.finfo(dtype).max)
        nearest = np.where(np.isinf(x), x, np.clip(x, -largest, largest)).astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(on_grid(jnp.asarray(x), dtype), nearest)
    assert np.isnan(on_grid(jnp.asarray([np.nan]), np.dtype(np.float16))[0])
    few = jnp.asarray(START[0])
    seeds = jnp.arange(4096, dtype=jnp.uint32)
    drawn = jax.jit(jax.vmap(lambda seed: on_grid(few, np.dtype(jnp.bfloat16), seed)))(seeds)
    drawn = np.asarray(drawn, np.float64)
    gap = np.asarray(spacing(few, np.dtype(jnp.bfloat16)))
    assert np.all(np.abs(drawn - START[0]) < gap)
    assert np.all(np.abs(drawn.mean(0) - START[0]) < 5 * 0.5 * gap / 64)


def test_the_weight_follows_a_parameter_that_is_changed_from_outside() -> None:
    tx = gf.master_params(gf.scale(-1.0))
    params = jnp.ones(4, jnp.bfloat16)
    state = tx.init(params)
    _, state = tx.update(jnp.full(4, -1e-3), state, params)
    np.testing.assert_allclose(state.weights, 1.001)
    _, state = tx.update(jnp.full(4, -1e-3), state, params.at[0].set(2.0))
    np.testing.assert_allclose(state.weights, [2.001, 1.002, 1.002, 1.002])


def test_inside_everything_is_float32_and_outside_only_narrow_parameters_are_kept() -> None:
    seen: dict[str, Any] = {}

    def look(updates: Any, params: Any) -> Any:
        seen.update(g=updates["w"].dtype, p=params["w"].dtype)
        return updates

    tx = gf.master_params(gf.chain(gf.stateless(look), gf.adamw(0.1)))
    params = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3), "none": None}
    state = jax.eval_shape(tx.init, params)
    assert state.weights["w"].dtype == jnp.float32
    assert jax.tree.leaves(state.weights["b"]) == []
    assert {x.dtype for x in jax.tree.leaves(state.inner_state) if x.ndim} == {np.dtype(np.float32)}
    updates, after = jax.eval_shape(tx.update, params, state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {np.dtype(np.float32)}
    assert seen == {"g": jnp.float32, "p": jnp.float32}


def test_functions_among_the_extra_arguments_are_evaluated_at_parameters() -> None:
    @gf.transformation
    def step_by_value() -> Any:
        def update(updates: Any, state: gf.EmptyState, params: Any, *, value_fn: Any, grad: Any) -> Any:
            assert params.dtype == grad.dtype == jnp.float32
            return -grad * value_fn(params), state

        return gf.init_empty_state, update

    def loss(params: jax.Array) -> jax.Array:
        assert params.dtype == jnp.bfloat16
        return jnp.sum(params.astype(jnp.float32))

    params = jnp.asarray([0.5, -2.0], jnp.bfloat16)
    tx = gf.master_params(step_by_value())
    updates, _ = tx.update(params, tx.init(params), params, value_fn=loss, grad=params)
    np.testing.assert_array_equal(updates, [0.75, -3.0])


def test_wrong_arguments() -> None:
    with pytest.raises(
        ValueError, match="'form' must be one of master, split, kahan, stochastic; got 'mast'"
    ):
        gf.master_params(gf.sgd(0.1), "mast")
    tx = gf.master_params(gf.sgd(0.1))
    params = jnp.ones(3, jnp.bfloat16)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match=r"equal shapes; got \(2,\) and \(3,\)"):
        tx.update(params[:2], tx.init(params), params)
    assert "scale: changes the step after chain.master_params" in str(
        gf.check(gf.chain(tx, gf.scale(2.0)), params)
    )

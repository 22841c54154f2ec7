"""Narrow parameters follow float64 over 1000 steps, second moments decay, and counters stop at their end."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import build, over_all
from trees import small

import gradflow as gf
from laws.support import assert_close, assert_finite, run_interpreted

STEPS = 1000
RNG = np.random.default_rng(0)
GRADS = RNG.normal(size=(STEPS, 6, 4)) * np.exp(RNG.normal(size=(6, 4)))
PARAMS = RNG.normal(size=(6, 4))

# The largest error of an update, as a part of the largest update of its step, in the second half of a run.
# An average in the parameter's dtype loses half a unit per step, of which 1 / (1 - decay) are felt.
BOUNDS = {"bfloat16": 0.02, "float16": 0.004}
OPTIMIZERS = {
    "momentum": gf.sgd(0.1, momentum=0.9),
    "adamw": gf.adamw(0.1, mask=gf.ndim(2)),
    "rmsprop": gf.rmsprop(0.1),
    "adafactor": gf.adafactor(0.1, min_dim_size_to_factor=2, multiply_by_parameter_scale=False),
    "adamw, mean in float32": gf.cast_state(gf.adamw(0.1), {"mean": "float32"}),
}


@functools.cache
def path(name: str, dtype: str) -> np.ndarray:
    """The updates of all steps, for gradients that every dtype holds."""
    grads = GRADS.astype(jnp.bfloat16).astype(np.float16).astype(np.float64)
    tx = OPTIMIZERS[name]
    with jax.enable_x64(dtype == "float64"):
        params = {"w": jnp.asarray(PARAMS.astype(jnp.bfloat16), dtype)}

        @jax.jit
        def run(grads: Any) -> Any:
            def body(state: Any, g: Any) -> Any:
                updates, state = tx.update({"w": g}, state, params)
                return state, updates["w"]

            return jax.lax.scan(body, tx.init(params), grads)[1]

        return np.asarray(run(jnp.asarray(grads, dtype)), np.float64)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_thousand_steps_are_those_of_float64(name: str, dtype: str) -> None:
    exact, found = path(name, "float64"), path(name, dtype)
    error = np.abs(found - exact).max((1, 2)) / np.abs(exact).max((1, 2))
    assert error[STEPS // 2 :].max() < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", ["adamw", "rmsprop", "adafactor"])
def test_second_moments_decay(name: str, dtype: str) -> None:
    """Without gradients all of them shrink alike in the narrow dtype and in float32."""
    tx = OPTIMIZERS[name]
    left = []
    for kind in (dtype, "float32"):
        params = {"w": jnp.asarray(PARAMS, kind)}
        first = {"w": jnp.asarray(GRADS[0].astype(jnp.bfloat16), kind)}
        _, start = tx.update(first, tx.init(params), params)

        def body(state: Any, _: Any, params: Any = params) -> Any:
            return tx.update(jax.tree.map(jnp.zeros_like, params), state, params)[1], None

        end, _ = jax.lax.scan(body, start, length=40 if name == "rmsprop" else STEPS)
        left.append([np.asarray(b, np.float64) / np.asarray(a, np.float64) for a, b in zip(
            *map(squares, (start, end)), strict=True)])  # fmt: skip
    for narrow, wide in zip(*left, strict=True):
        assert np.all(wide < 0.5)
        np.testing.assert_allclose(narrow, wide, rtol=0.01)


def squares(state: Any) -> list[Any]:
    """The arrays of a state that hold averages of squares."""
    found = jax.tree_util.tree_leaves_with_path(state)
    names = ("nu", "v_row", "v_col")
    return [
        x
        for path, x in found
        if x.ndim and x.size > 1 and any(f".{n}" in jax.tree_util.keystr(path) for n in names)
    ]


# Rules that evaluate something at the next step, too, for which the count would wrap around.
AHEAD = ("adam-nesterov", "scale_by_nadam", "scale_by_muon", "radam-nesterov")
COUNTING = (
    "adamw",
    "adafactor",
    "prodigy",
    "MultiSteps",
    "apply_if_finite",
    "schedule_free",
    "with_loss_scale",
)


@over_all("counters at their end", (*AHEAD, *COUNTING))
def test_counters_stop_at_the_largest_number(case: str) -> None:
    tx = build(case)
    params = small(0)
    last = np.iinfo(np.int32).max

    def at_the_end(x: Any) -> Any:
        is_count = x.dtype == np.int32 and x.shape == ()
        return jnp.full_like(x, last) if is_count else x

    def one_before(x: Any) -> Any:
        return x - 1 if x.dtype == np.int32 and x.shape == () else x

    state = jax.tree.map(at_the_end, tx.init(params))
    (updates,), _, after = run_interpreted(tx, params, [small(1)], state)
    assert_finite(updates)
    if case in AHEAD:
        (before,), _, _ = run_interpreted(tx, params, [small(1)], jax.tree.map(one_before, state))
        assert_close(updates, before)
    for leaf in jax.tree.leaves(after):
        assert leaf.dtype != np.int32 or np.all(leaf >= 0)

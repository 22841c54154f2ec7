"""Stages that apply the learning rate and return the whole step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from equations import Memory, assert_follows

import gradflow as gf

PARAMS = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.full(2, 0.5)}}


def n(x: Any, axis: Any = None) -> Any:
    return x / np.sqrt(np.sum(x * x, axis=axis, keepdims=True))


def hyperball(m: Memory, g: Any, p: Any, t: int) -> Any:
    radius = m.setdefault("radius", np.linalg.norm(p))
    moved = p / radius - 0.1 * n(g)
    return radius * n(moved) - p


def hyperball_of_columns(m: Memory, g: Any, p: Any, t: int) -> Any:
    radius = m.setdefault("radius", np.sqrt(np.sum(p * p, axis=0)))
    return radius * n(p / radius - 0.1 * n(g, 0), 0) - p


def relative(m: Memory, g: Any, p: Any, t: int) -> Any:
    return -_rate(t) * np.linalg.norm(p) / np.linalg.norm(g) * g


def relative_of_columns(m: Memory, g: Any, p: Any, t: int) -> Any:
    # A column with a gradient of zero does not move.
    size, p_size = (np.sqrt(np.sum(x * x, axis=0)) for x in (g, p))
    return -0.1 * p_size * g / np.where(size > 0, size, 1)


def brake(m: Memory, g: Any, p: Any, t: int) -> Any:
    norm = np.linalg.norm(p)
    k = np.sum(g * p) / norm**2
    u = g - 0.7 * k * p if k < 0 else g
    moved = p - 0.1 * u
    moved = moved * (norm - 0.1 * np.sum(u * p) / norm) / np.linalg.norm(moved)
    return moved - 0.1 * 0.2 * (u * moved > 0) * moved - p


def floor(m: Memory, g: Any, p: Any, t: int) -> Any:
    axes = {1: None, 2: 0, 3: 0}[p.ndim]
    length = [np.sqrt(np.sum(x * x, axis=axes, keepdims=True)) for x in (g, p)]
    return g * np.maximum(1, 1.2 * length[1] / length[0])


def _rate(t: int) -> float:
    return 0.1 / t


def adamw_step(m: Memory, g: Any, p: Any, t: int) -> Any:
    return -_rate(t) * (g + 0.3 * p)


def independent(m: Memory, g: Any, p: Any, t: int) -> Any:
    return -_rate(t) * g - _rate(t) / 0.1 * 0.3 * p


def corrected(m: Memory, g: Any, p: Any, t: int) -> Any:
    return -_rate(t) * g - _rate(t) ** 2 / 0.1 * 0.3 * p


def cautious(m: Memory, g: Any, p: Any, t: int) -> Any:
    return -_rate(t) * (g + 0.3 * (g * p >= 0) * p)


def stepped(m: Memory, g: Any, p: Any, t: int) -> Any:
    return (p - _rate(t) * g) * (1 - _rate(t) * 0.3) - p


def on_matrices(m: Memory, g: Any, p: Any, t: int) -> Any:
    return stepped(m, g, p, t) if p.ndim == 2 else -_rate(t) * g


def _decay(**options: Any) -> Any:
    return gf.step_with_decay(lambda count: 0.1 / (count.astype(float) + 1.0), 0.3, **options)


CASES = [
    (hyperball, lambda: gf.step_on_hyperball(0.1)),
    (hyperball_of_columns, lambda: gf.step_on_hyperball(0.1, axis=0)),
    (relative, lambda: gf.step_relative(lambda count: 0.1 / (count.astype(float) + 1.0))),
    (relative_of_columns, lambda: gf.step_relative(0.1, axis=0)),
    (brake, lambda: gf.step_with_radial_brake(0.1, 0.3, 0.2)),
    (floor, lambda: gf.row_floor(1.2)),
    (adamw_step, lambda: _decay()),
    (independent, lambda: _decay(kind="independent", peak_rate=0.1)),
    (corrected, lambda: _decay(kind="corrected", peak_rate=0.1)),
    (cautious, lambda: _decay(cautious=True)),
    (stepped, lambda: _decay(stepped=True)),
    (on_matrices, lambda: _decay(stepped=True, mask=gf.ndim(2))),
]


@pytest.mark.parametrize(("rule", "build"), CASES, ids=[rule.__name__ for rule, _ in CASES])
def test_equations(rule: Any, build: Any) -> None:
    assert_follows(rule, build())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_hyperball_keeps_the_norm_for_2000_steps(dtype: Any) -> None:
    tx = gf.chain(gf.scale_by_adam(), gf.step_on_hyperball(0.018))
    params = jax.random.normal(jax.random.key(0), (32, 32), dtype) * jnp.asarray(0.02, dtype)
    start = np.linalg.norm(np.asarray(params, np.float64))

    @jax.jit
    def run(params: Any, state: Any) -> Any:
        def step(carry: Any, key: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.random.normal(key, params.shape, dtype), state, params)
            return (gf.apply_updates(params, updates), state), jnp.linalg.norm(params.astype(jnp.float32))

        return jax.lax.scan(step, (params, state), jax.random.split(jax.random.key(1), 2000))

    (moved, _), norms = run(params, tx.init(params))
    assert float(np.max(np.abs(np.asarray(norms) / start - 1))) < 0.002
    assert np.linalg.norm(np.asarray(moved - params, np.float64)) > 0.5 * start


def test_hyperball_refuses_weights_of_zero_by_path() -> None:
    params = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
    with pytest.raises(
        ValueError, match=r"step_on_hyperball: weights must not be zero.* at 'layer/bias'.*partition"
    ):
        gf.step_on_hyperball(0.1).init(params)
    columns = {"kernel": jnp.ones((3, 2)).at[:, 1].set(0)}
    gf.step_on_hyperball(0.1).init(columns)
    with pytest.raises(ValueError, match="or a unit of zeros, at 'kernel'"):
        gf.step_on_hyperball(0.1, axis=0).init(columns)
    traced = jax.jit(gf.step_on_hyperball(0.1).init)(params)
    u, _ = gf.step_on_hyperball(0.1).update(params, traced, params)
    np.testing.assert_array_equal(u["layer"]["bias"], 0)


def test_relative_steps_refuse_weights_of_zero_by_path() -> None:
    params = {"layer": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}
    with pytest.raises(
        ValueError, match=r"step_relative: weights must not be zero, because a step .* at 'layer/bias'"
    ):
        gf.step_relative(0.1).init(params)
    u, _ = gf.step_relative(0.1).update(params, jax.jit(gf.step_relative(0.1).init)(params), params)
    np.testing.assert_array_equal(u["layer"]["bias"], 0)
    np.testing.assert_allclose(u["layer"]["kernel"], -0.1, rtol=1e-6)


def test_the_brake_moves_weights_of_zero() -> None:
    tx = gf.step_with_radial_brake(0.1)
    u, _ = tx.update(jnp.asarray([1.0, -2.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(u, [-0.1, 0.2], rtol=1e-6)


LAST = {
    "step_on_hyperball": lambda: gf.step_on_hyperball(0.01),
    "step_relative": lambda: gf.step_relative(0.01),
    "step_with_radial_brake": lambda: gf.step_with_radial_brake(0.01),
    "step_with_decay": lambda: gf.step_with_decay(0.01, 0.0),
}


@pytest.mark.parametrize("name", LAST)
def test_check_objects_to_stages_after_the_last(name: str) -> None:
    last = LAST[name]()
    assert gf.check(gf.chain(gf.scale_by_adam(), last), PARAMS).ok
    assert gf.check(gf.with_param_ema(gf.chain(gf.scale_by_adam(), last)), PARAMS).ok
    assert gf.check(gf.chain(gf.scale_by_adam(), last, gf.keep_params_nonnegative()), PARAMS).ok
    (finding,) = gf.check(gf.chain(gf.scale_by_adam(), last, gf.ema(0.9)), PARAMS).findings
    assert finding.stage == "chain.ema"
    assert f"changes the step after chain.{name}" in finding.problem
    for before in (gf.sgd(0.1), gf.scale(-0.1)):
        findings = gf.check(gf.chain(before, last), PARAMS).findings
        assert any(f"chain.{name}" in f.stage and "a second time" in f.problem for f in findings)


def test_the_peak_rate_is_for_two_kinds() -> None:
    with pytest.raises(ValueError, match="peak_rate"):
        gf.step_with_decay(0.1, 0.1, kind="independent")
    with pytest.raises(ValueError, match="peak_rate"):
        gf.step_with_decay(0.1, 0.1, peak_rate=0.1)
    with pytest.raises(ValueError, match="kind"):
        gf.step_with_decay(0.1, 0.1, kind="coupled")  # type: ignore[arg-type]


def test_an_axis_that_a_leaf_does_not_have_is_named() -> None:
    for tx in (
        gf.step_on_hyperball(0.1, axis=1),
        gf.step_relative(0.1, axis=1),
        gf.step_with_radial_brake(0.1, axis=1),
        gf.row_floor(axis=1),
    ):
        with pytest.raises(ValueError, match="at 'layer/bias'"):
            tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_an_axis_that_is_named_twice_is_refused() -> None:
    tx = gf.row_floor(axis=(0, -2))
    p = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"row_floor: argument 'axis' must name an axis once; got \(0, -2\)"):
        tx.update(p, tx.init(p), p)

"""Every block against its equation in NumPy float64, over several steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

Leaf = np.ndarray
STEPS = 4


def leaves(seed: int, scale: float = 1.0) -> dict[str, Leaf]:
    rng = np.random.default_rng(seed)
    shapes = {"matrix": (3, 4), "vector": (5,), "scalar": (), "kernel": (2, 2, 3, 4)}
    return {name: scale * rng.normal(size=shape) for name, shape in shapes.items()}


PARAMS = leaves(100)
GRADIENTS = [leaves(i, scale) for i, scale in zip(range(STEPS), (1.0, 30.0, 1e-3, 1.0), strict=True)]


def norm(x: dict[str, Leaf] | Leaf) -> float:
    parts = x.values() if isinstance(x, dict) else [x]
    return float(np.sqrt(sum(np.sum(np.square(part)) for part in parts)))


def each(f: Callable[..., Any], *trees: dict[str, Leaf]) -> dict[str, Leaf]:
    return {name: f(*(tree[name] for tree in trees)) for name in trees[0]}


def trace(decay: float, nesterov: bool = False, dampening: float = 0.0) -> Any:
    def steps(gradients: list[Any], params: Any) -> Any:
        buffer = None
        for g in gradients:
            first = buffer is None
            buffer = g if first else each(lambda b, x: decay * b + (1 - dampening) * x, buffer, g)
            yield each(lambda b, x: x + decay * b if nesterov else b, buffer, g)

    return steps


def ema(decay: float, debias: bool) -> Any:
    def steps(gradients: list[Any], params: Any) -> Any:
        for t in range(1, len(gradients) + 1):
            weights = [(1 - decay) * decay ** (t - 1 - i) for i in range(t)]
            total = sum(weights) if debias else 1.0
            yield each(
                lambda *g, w=weights, n=total: sum(a * b for a, b in zip(w, g, strict=True)) / n,
                *gradients[:t],
            )

    return steps


def every(f: Callable[[dict[str, Leaf], dict[str, Leaf]], dict[str, Leaf]]) -> Any:
    """An equation without memory."""
    return lambda gradients, params: (f(g, params) for g in gradients)


def clipped_by_norm(g: dict[str, Leaf], limit: float) -> dict[str, Leaf]:
    factor = min(1.0, limit / norm(g))
    return each(lambda x: factor * x, g)


def rms(x: Leaf) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def unit_norm(x: Leaf, axis: Any = None) -> Leaf:
    axes = {0: (), 1: (0,), 2: (0,), 3: (0,), 4: (0, 1, 2)}[x.ndim] if axis is None else axis
    return np.broadcast_to(np.sqrt(np.sum(np.square(x), axis=axes, keepdims=True)), x.shape)


def agc(g: Leaf, p: Leaf, clipping: float, eps: float, axis: Any = None) -> Leaf:
    limit = clipping * np.maximum(unit_norm(p, axis), eps)
    size = unit_norm(g, axis)
    return np.where(size > limit, limit / size, 1.0) * g


def centred(g: Leaf, channel: int) -> Leaf:
    if g.ndim < 2:
        return g
    axes = tuple(i for i in range(g.ndim) if i != channel % g.ndim)
    return g - np.mean(g, axis=axes, keepdims=True)


def trusted(g: Leaf, p: Leaf, least: float, coefficient: float, eps: float) -> Leaf:
    g_norm, p_norm = max(norm(g), least), max(norm(p), least)
    return coefficient * p_norm / (g_norm + eps) * g


CASES: dict[str, tuple[Any, Any]] = {
    "trace": (gf.trace(0.9), trace(0.9)),
    "trace nesterov": (gf.trace(0.9, nesterov=True), trace(0.9, nesterov=True)),
    "trace of all": (gf.trace(1.0), trace(1.0)),
    "dampened": (gf.dampened_trace(0.9, 0.4), trace(0.9, dampening=0.4)),
    "dampened by 0": (gf.dampened_trace(0.9), trace(0.9)),
    "dampened nesterov": (gf.dampened_trace(0.9, 0.4, True), trace(0.9, True, 0.4)),
    "ema": (gf.ema(0.9), ema(0.9, True)),
    "ema from zero": (gf.ema(0.9, debias=False), ema(0.9, False)),
    "ema near 1": (gf.ema(0.99999), ema(0.99999, True)),
    "clip": (gf.clip(0.5), every(lambda g, p: each(lambda x: np.clip(x, -0.5, 0.5), g))),
    "global norm": (gf.clip_by_global_norm(2.0), every(lambda g, p: clipped_by_norm(g, 2.0))),
    "block rms": (
        gf.clip_by_block_rms(0.3),
        every(lambda g, p: each(lambda x: min(1.0, 0.3 / rms(x)) * x, g)),
    ),
    "agc": (gf.adaptive_grad_clip(0.01), every(lambda g, p: each(lambda a, b: agc(a, b, 0.01, 1e-3), g, p))),
    "agc eps": (
        gf.adaptive_grad_clip(0.1, eps=10.0),
        every(lambda g, p: each(lambda a, b: agc(a, b, 0.1, 10.0), g, p)),
    ),
    "centralize": (gf.centralize(), every(lambda g, p: each(lambda x: centred(x, 0), g))),
    "centralize last": (
        gf.centralize(channel_axis=-1),
        every(lambda g, p: each(lambda x: centred(x, -1), g)),
    ),
    "normalize": (
        gf.normalize_by_update_norm(-2.0, eps=0.5),
        every(lambda g, p: each(lambda x: -2.0 * x / (norm(g) + 0.5), g)),
    ),
    "sign": (gf.scale_by_sign(), every(lambda g, p: each(np.sign, g))),
    "param norm": (
        gf.scale_by_param_block_norm(2.0),
        every(lambda g, p: each(lambda a, b: max(norm(b), 2.0) * a, g, p)),
    ),
    "param rms": (
        gf.scale_by_param_block_rms(0.9),
        every(lambda g, p: each(lambda a, b: max(rms(b), 0.9) * a, g, p)),
    ),
    "trust ratio": (
        gf.scale_by_trust_ratio(),
        every(lambda g, p: each(lambda a, b: trusted(a, b, 0.0, 1.0, 0.0), g, p)),
    ),
    "trust ratio, all arguments": (
        gf.scale_by_trust_ratio(2.0, 0.1, 0.5),
        every(lambda g, p: each(lambda a, b: trusted(a, b, 2.0, 0.1, 0.5), g, p)),
    ),
    "non-negative": (
        gf.keep_params_nonnegative(),
        every(lambda g, p: each(lambda a, b: np.where(a + b < 0, -b, a), g, p)),
    ),
    "zero nans": (gf.zero_nans(), every(lambda g, p: g)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_equation(case: str) -> None:
    tx, equation = CASES[case]
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, PARAMS)
        state = tx.init(params)
        update = jax.jit(tx.update)
        for g, expected in zip(GRADIENTS, equation(GRADIENTS, PARAMS), strict=True):
            updates, state = update(jax.tree.map(jnp.asarray, g), state, params)
            for name, u in updates.items():
                assert u.dtype == np.float64
                np.testing.assert_allclose(u, expected[name], rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("axis", [0, -1, (0, 1)])
def test_adaptive_clipping_along_given_axes(axis: Any) -> None:
    with jax.enable_x64(True):
        g, p = GRADIENTS[0]["kernel"], PARAMS["kernel"]
        tx = gf.adaptive_grad_clip(0.05, axis=axis)
        u, _ = tx.update(jnp.asarray(g), tx.init(jnp.asarray(p)), jnp.asarray(p))
        np.testing.assert_allclose(u, agc(g, p, 0.05, 1e-3, axis), rtol=1e-12)


@pytest.mark.parametrize(
    "shape", [(), (3,), (1, 3), (3, 1, 1), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 1, 2, 3, 4)]
)
def test_units(shape: tuple[int, ...]) -> None:
    rows = [n for n in shape if n > 1]
    axis: Any = tuple(range(len(shape) if len(rows) <= 1 else 1 if len(shape) <= 3 else len(shape) - 1))
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = np.broadcast_to(np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True)), shape)
    actual = gf.unitwise_norm(jnp.asarray(x))
    assert actual.shape == shape
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_unitwise_clip_changes_only_units_beyond_their_limit() -> None:
    grad = jnp.asarray([[3.0, 0.3], [4.0, 0.4]], jnp.float32)
    u = gf.unitwise_clip(gf.unitwise_norm(grad), jnp.asarray([1.0, 1.0]), grad)
    np.testing.assert_allclose(u, [[0.6, 0.3], [0.8, 0.4]], rtol=1e-6)
    # A limit and a norm that are both below div_eps.
    small = gf.unitwise_clip(jnp.float32(1e-8), jnp.float32(1e-9), jnp.float32(1e-8))
    np.testing.assert_allclose(small, 1e-11, rtol=1e-5)


def test_complex_numbers() -> None:
    rng = np.random.default_rng(0)
    g = (rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))).astype(np.complex64)
    p = (rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))).astype(np.complex64)
    size, p_size = np.sqrt(np.sum(np.abs(g) ** 2)), np.sqrt(np.sum(np.abs(p) ** 2))
    columns = np.sqrt(np.sum(np.abs(g) ** 2, axis=0)), np.sqrt(np.sum(np.abs(p) ** 2, axis=0))
    expected = {
        gf.clip_by_global_norm(1.0): g / size,
        gf.clip_by_block_rms(0.5): g / (size / np.sqrt(12)) * 0.5,
        gf.normalize_by_update_norm(eps=0.0): g / size,
        gf.scale_by_trust_ratio(): g / size * p_size,
        gf.adaptive_grad_clip(0.1): g * 0.1 * columns[1] / columns[0],
        gf.scale_by_sign(): g / np.abs(g),
        gf.trace(0.9): g,
        gf.centralize(): g - np.mean(g, axis=1, keepdims=True),
        gf.scale_by_param_block_norm(): g * p_size,
    }
    for tx, value in expected.items():
        u, _ = jax.jit(tx.update)(jnp.asarray(g), tx.init(jnp.asarray(p)), jnp.asarray(p))
        assert u.dtype == np.complex64
        np.testing.assert_allclose(u, value, rtol=2e-6, err_msg=repr(tx))


def test_trust_ratio_is_one_where_a_norm_is_zero() -> None:
    tx = gf.scale_by_trust_ratio(trust_coefficient=0.5)
    params = {"zero": jnp.zeros(3), "one": jnp.ones(3)}
    for g in (jnp.full(3, 2.0), jnp.zeros(3)):
        u, _ = tx.update({"zero": g, "one": g}, tx.init(params), params)
        np.testing.assert_array_equal(u["zero"], g)
    np.testing.assert_array_equal(u["one"], np.zeros(3))


def test_zero_nans_remembers_where_the_last_ones_were() -> None:
    tx = gf.zero_nans()
    params = {"a": jnp.zeros(3), "b": jnp.zeros(()), "c": None}
    state = tx.init(params)
    assert state == gf.ZeroNansState({"a": False, "b": False, "c": None})
    nan = {"a": jnp.asarray([1.0, jnp.nan, jnp.inf]), "b": jnp.asarray(2.0), "c": None}
    u, state = tx.update(nan, state, params)
    np.testing.assert_array_equal(u["a"], [1.0, 0.0, np.inf])
    assert state.found_nan == {"a": True, "b": False, "c": None}
    _, state = tx.update({"a": None, "b": jnp.asarray(jnp.nan), "c": None}, state, params)
    assert state.found_nan == {"a": True, "b": True, "c": None}  # of `a` nothing new is known
    _, state = tx.update(params, state, params)
    assert state.found_nan == {"a": False, "b": False, "c": None}


def test_nonnegative_parameters_stay_so() -> None:
    tx = gf.chain(gf.scale(-1.0), gf.keep_params_nonnegative())
    params = jnp.asarray([0.5, 0.1, 0.0, -1.0], jnp.float32)
    u, _ = tx.update(jnp.asarray([0.3, 0.3, 0.3, 0.0], jnp.float32), tx.init(params), params)
    np.testing.assert_allclose(gf.apply_updates(params, u), [0.2, 0.0, 0.0, 0.0], atol=1e-7)


def test_the_average_of_narrow_leaves_is_held_in_float32() -> None:
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    assert {x.dtype.name for x in jax.tree.leaves(gf.ema(0.999).init(params).ema)} == {"float32"}
    state = gf.ema(0.999, accumulator_dtype=jnp.bfloat16).init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state.ema)} == {"bfloat16"}
    state = gf.trace(0.9, accumulator_dtype="float32").init(params)
    assert {x.dtype.name for x in jax.tree.leaves(state.trace)} == {"float32"}

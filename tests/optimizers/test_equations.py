"""Rules that no reference trajectory covers, against their equations in NumPy and float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

STEPS = 12
Memory = dict[str, Any]


def _corrected(average: Any, b: float, t: int) -> Any:
    return average / (1 - b**t)


def _adam(m: Memory, g: Any, t: int, b1: float, b2: float) -> None:
    m["mu"] = b1 * m.get("mu", 0) + (1 - b1) * g
    m["nu"] = b2 * m.get("nu", 0) + (1 - b2) * g**2


def nesterov_adam(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.99)
    ahead = 0.9 * _corrected(m["mu"], 0.9, t + 1) + 0.1 * _corrected(g, 0.9, t)
    return -0.1 * ahead / (np.sqrt(_corrected(m["nu"], 0.99, t)) + 1e-8)


def nadamw(m: Memory, g: Any, p: Any, t: int) -> Any:
    return nesterov_adam(m, g, p, t) - 0.1 * 0.01 * p


def scheduled_nadamw(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.99)
    now, ahead = (0.9 * (1 - 0.5 * 0.96 ** (k * 0.01)) for k in (t, t + 1))
    m["product"] = m.get("product", 1) * now
    first = (1 - now) / (1 - m["product"]) * g + ahead / (1 - m["product"] * ahead) * m["mu"]
    return -0.1 * (first / (np.sqrt(_corrected(m["nu"], 0.99, t)) + 1e-8) + 0.01 * p)


def adamaxw(m: Memory, g: Any, p: Any, t: int) -> Any:
    m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * g
    m["nu"] = np.maximum(0.99 * m.get("nu", 0), np.abs(g) + 1e-8)
    return -0.1 * (_corrected(m["mu"], 0.9, t) / m["nu"] + 0.01 * p)


def uncorrected_amsgrad(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.5)
    m["top"] = np.maximum(m.get("top", 0), m["nu"])
    return -0.1 * m["mu"] / (np.sqrt(m["top"] + 1e-4) + 1e-8)


def adagrad_with_a_large_eps(m: Memory, g: Any, p: Any, t: int) -> Any:
    m["total"] = m.get("total", 0.3) + g**2
    return -0.1 * g / np.sqrt(m["total"] + 0.01)


def corrected_rms(m: Memory, g: Any, p: Any, t: int) -> Any:
    m["nu"] = 0.9 * m.get("nu", 0.3) + 0.1 * g**2
    return -0.1 * g / (np.sqrt(_corrected(m["nu"], 0.9, t)) + 1e-8)


def _spread(m: Memory, g: Any) -> None:
    m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * g
    m["nu"] = 0.9 * m.get("nu", 0.3) + 0.1 * g**2


def stddev(m: Memory, g: Any, p: Any, t: int) -> Any:
    _spread(m, g)
    return g / np.sqrt(m["nu"] - m["mu"] ** 2 + 1e-8)


def corrected_stddev(m: Memory, g: Any, p: Any, t: int) -> Any:
    _spread(m, g)
    variance = _corrected(m["nu"], 0.9, t) - _corrected(m["mu"], 0.9, t) ** 2
    return g / (np.sqrt(variance) + 1e-8)


def _lion(m: Memory, g: Any) -> Any:
    mixed = 0.9 * m.get("mu", 0) + 0.1 * g
    m["mu"] = 0.8 * m.get("mu", 0) + 0.2 * g
    return mixed


def smooth_lion(m: Memory, g: Any, p: Any, t: int) -> Any:
    return np.tanh(3 * _lion(m, g))


def refined_lion(m: Memory, g: Any, p: Any, t: int) -> Any:
    return np.clip(_lion(m, 20 * g), -1, 1)


def nesterov_belief(m: Memory, g: Any, p: Any, t: int) -> Any:
    m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * g
    m["nu"] = 0.99 * m.get("nu", 0) + 0.01 * (g - m["mu"]) ** 2 + 1e-4
    ahead = 0.9 * _corrected(m["mu"], 0.9, t + 1) + 0.1 * _corrected(g, 0.9, t)
    return -0.1 * (ahead / (np.sqrt(_corrected(m["nu"], 0.99, t)) + 1e-8) + 0.01 * p)


def nesterov_radam(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.99)
    ahead = 0.9 * _corrected(m["mu"], 0.9, t + 1) + 0.1 * _corrected(g, 0.9, t)
    longest = 2 / 0.01 - 1
    length = longest - 2 * t * 0.99**t / (1 - 0.99**t)
    if length < 7:
        return -0.1 * ahead
    r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return -0.1 * r * ahead / (np.sqrt(_corrected(m["nu"], 0.99, t)) + 1e-8)


def novograd(m: Memory, g: Any, p: Any, t: int) -> Any:
    square = np.sum(g**2)
    m["nu"] = square if t == 1 else 0.25 * m["nu"] + 0.75 * square
    m["mu"] = 0.9 * m.get("mu", 0) + g / (np.sqrt(m["nu"] + 1e-4) + 1e-3) + 0.01 * p
    return -0.1 * m["mu"]


def optimistic(m: Memory, g: Any, p: Any, t: int) -> Any:
    change = g - m.get("g", g)
    m["g"] = g
    return -0.1 * (0.7 * g + 0.4 * change)


def optimistic_adam(m: Memory, g: Any, p: Any, t: int) -> Any:
    step = nesterov_adam(m, g, p, t)
    change = step - m.get("step", step)
    m["step"] = step
    return step + change


def averaging_sm3(m: Memory, g: Any, p: Any, t: int) -> Any:
    bounds = m.get("bounds", [np.zeros(n) for n in g.shape])
    reshaped = [b.reshape([-1 if k == axis else 1 for k in range(g.ndim)]) for axis, b in enumerate(bounds)]
    total = 0.1 * g**2 + 0.9 * np.broadcast_to(np.min(np.broadcast_arrays(*reshaped), axis=0), g.shape)
    m["bounds"] = [
        total.max(axis=tuple(k for k in range(g.ndim) if k != axis)) if g.ndim > 1 else total
        for axis in range(g.ndim)
    ]
    m["nu"] = 0.5 * m.get("nu", 0) + 0.5 * g / np.sqrt(total + 1e-8)
    return m["nu"]


def nesterov_adopt(m: Memory, g: Any, p: Any, t: int) -> Any:
    before = m.get("nu")
    m["nu"] = g**2 if before is None else 0.99 * before + 0.01 * g**2
    if before is None:
        return np.zeros_like(g)
    scaled = np.clip(g / np.maximum(np.sqrt(before), 1e-6), -0.5 * (t - 1), 0.5 * (t - 1))
    m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * scaled
    return -0.1 * (0.9 * m["mu"] + 0.1 * scaled)


def acprop(m: Memory, g: Any, p: Any, t: int) -> Any:
    root = 1.0 if t == 1 else np.sqrt(_corrected(m["nu"], 0.99, t - 1))
    m["nu"] = 0.99 * m.get("nu", 0) + 0.01 * (g - m.get("mu", 0)) ** 2 + 1e-6
    m["mu"] = 0.9 * m.get("mu", 0) + 0.1 * g
    return -0.1 * (g / (root + 1e-8) + 0.01 * p)


def decaying_lamb(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.99)
    v = _corrected(m["mu"], 0.9, t) / (np.sqrt(_corrected(m["nu"], 0.99, t)) + 1e-6)
    v = v + 0.01 * p if p.ndim > 1 else v
    return -0.1 * np.linalg.norm(p) / np.linalg.norm(v) * v


def masked_lars(m: Memory, g: Any, p: Any, t: int) -> Any:
    v = g + 0.01 * p
    ratio = 0.1 * np.linalg.norm(p) / (np.linalg.norm(v) + 1e-3) if p.ndim > 1 else 1.0
    step = -0.1 * ratio * v
    m["m"] = 0.9 * m.get("m", 0) + step
    return 0.9 * m["m"] + step


def warmed_ademamix(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.99)
    slow = 0.5 + 0.01 * (t - 1)
    m["m2"] = slow * m.get("m2", 0) + (1 - slow) * g
    mixed = _corrected(m["mu"], 0.9, t) + 0.1 * (t - 1) * m["m2"]
    return mixed / (np.sqrt(_corrected(m["nu"], 0.99, t)) + 1e-8)


def adam_by_the_textbook(m: Memory, g: Any, p: Any, t: int) -> Any:
    _adam(m, g, t, 0.9, 0.99)
    return _corrected(m["mu"], 0.9, t) / (np.sqrt(_corrected(m["nu"], 0.99, t) + 1e-4) + 1e-8)


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


CASES: list[tuple[Callable[..., Any], Callable[[], Any]]] = [
    (adam_by_the_textbook, lambda: gf.scale_by_adam(b2=0.99, eps_root=1e-4)),
    (nesterov_adam, lambda: gf.nadam(0.1, b2=0.99)),
    (nadamw, lambda: gf.nadamw(0.1, b2=0.99, weight_decay=0.01)),
    (scheduled_nadamw, lambda: gf.nadamw(0.1, b2=0.99, weight_decay=0.01, momentum_decay=0.01)),
    (adamaxw, lambda: gf.adamaxw(0.1, b2=0.99, weight_decay=0.01)),
    (
        uncorrected_amsgrad,
        lambda: gf.amsgrad(
            0.1, 0.9, 0.5, 1e-8, 1e-4, None, bias_correction_mu=False, bias_correction_nu=False
        ),
    ),
    (
        corrected_rms,
        lambda: gf.rmsprop(0.1, initial_scale=0.3, eps_in_sqrt=False, bias_correction=True),
    ),
    (stddev, lambda: gf.scale_by_stddev(initial_scale=0.3)),
    (
        corrected_stddev,
        lambda: gf.scale_by_stddev(initial_scale=0.3, eps_in_sqrt=False, bias_correction=True),
    ),
    (smooth_lion, lambda: gf.scale_by_lion(0.9, 0.8, mode="smooth", smooth_beta=3.0)),
    (refined_lion, lambda: gf.chain(gf.scale(20.0), gf.scale_by_lion(0.9, 0.8, mode="refined"))),
    (
        nesterov_belief,
        lambda: gf.adabelief(0.1, 0.9, 0.99, 1e-8, 1e-4, weight_decay=0.01, nesterov=True),
    ),
    (nesterov_radam, lambda: gf.radam(0.1, b2=0.99, threshold=7.0, nesterov=True)),
    (novograd, lambda: gf.novograd(0.1, eps=1e-3, eps_root=1e-4, weight_decay=0.01)),
    (optimistic, lambda: gf.optimistic_gradient_descent(0.1, alpha=0.7, beta=0.4)),
    (optimistic_adam, lambda: gf.optimistic_adam_v2(0.1, b2=0.99)),
    (averaging_sm3, lambda: gf.scale_by_sm3(0.5, 0.9)),
    (
        nesterov_adopt,
        lambda: gf.adopt(0.1, b2=0.99, nesterov=True, clip_value_fn=lambda t: 0.5 * t.astype(float)),
    ),
    (adagrad_with_a_large_eps, lambda: gf.adagrad(0.1, 0.3, 0.01)),
    (acprop, lambda: gf.acprop(0.1, 0.9, 0.99, 1e-8, 1e-6, weight_decay=0.01)),
    (decaying_lamb, lambda: gf.lamb(0.1, b2=0.99, weight_decay=0.01, mask=_matrices)),
    (
        masked_lars,
        lambda: gf.lars(0.1, 0.01, True, 0.1, 1e-3, _matrices, momentum=0.9, nesterov=True),
    ),
    (
        warmed_ademamix,
        lambda: gf.scale_by_ademamix(
            b2=0.99, b3=lambda t: 0.5 + 0.01 * t.astype(float), alpha=lambda t: 0.1 * t.astype(float)
        ),
    ),
]


@pytest.mark.parametrize(("rule", "build"), CASES, ids=[rule.__name__ for rule, _ in CASES])
def test_equations(rule: Callable[..., Any], build: Callable[[], Any]) -> None:
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 4), "b": (4,), "K": (2, 3, 2)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    memories: dict[str, Memory] = {name: {} for name in shapes}
    with jax.enable_x64(True):
        tx = build()
        state = tx.init(jax.tree.map(jnp.asarray, params))
        step = jax.jit(tx.update)
        for t in range(1, STEPS + 1):
            grads = {name: rng.normal(size=shape) for name, shape in shapes.items()}
            grads["b"][t % 4] = 0.0
            u, state = step(*jax.tree.map(jnp.asarray, (grads, state, params)))
            for name in shapes:
                expected = rule(memories[name], grads[name], params[name], t)
                np.testing.assert_allclose(u[name], expected, rtol=1e-9, atol=1e-10, err_msg=f"{t}, {name}")
                params[name] = params[name] + expected


def test_sgd_is_what_it_says() -> None:
    params = {"w": jnp.ones((3,))}
    grads = {"w": jnp.asarray([1.0, -2.0, 0.0])}
    tx = gf.sgd(0.1)
    u, _ = tx.update(grads, tx.init(params))
    np.testing.assert_allclose(u["w"], [-0.1, 0.2, 0.0], rtol=1e-6)


def test_noisy_sgd_adds_noise_of_the_stated_size() -> None:
    params = jnp.zeros((10_000,))
    tx = gf.noisy_sgd(0.5, eta=0.04, gamma=1.0, key=0)
    state = tx.init(params)
    for t in range(3):
        u, state = tx.update(jnp.ones_like(params), state)
        deviation = 0.5 * np.sqrt(0.04 / (1 + t))
        assert abs(float(jnp.mean(u)) + 0.5) < 4 * deviation / 100
        np.testing.assert_allclose(np.std(u), deviation, rtol=0.03)

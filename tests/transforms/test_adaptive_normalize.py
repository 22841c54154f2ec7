"""adaptive_normalize: the climb of ASAM."""

import jax.numpy as jnp
import numpy as np

import gradflow as gf

RNG = np.random.default_rng(0)
P = {"a": RNG.normal(size=(3, 2)), "b": RNG.normal(size=4)}
G = {"a": RNG.normal(size=(3, 2)), "b": RNG.normal(size=4)}


def _update(g: dict[str, np.ndarray], p: dict[str, np.ndarray], eta: float) -> dict[str, np.ndarray]:
    tx = gf.adaptive_normalize(eta)
    arrays = [{name: jnp.float32(x) for name, x in tree.items()} for tree in (g, p)]
    u, _ = tx.update(arrays[0], tx.init(arrays[1]), arrays[1])
    return {name: np.asarray(x) for name, x in u.items()}


def test_the_papers_equation() -> None:
    u = _update(G, P, 0.1)
    t = {name: np.abs(x) + 0.1 for name, x in P.items()}
    whole = np.sqrt(sum(np.sum((t[name] * G[name]) ** 2) for name in G))
    for name in G:
        np.testing.assert_allclose(u[name], t[name] ** 2 * G[name] / whole, rtol=1e-5, atol=1e-6)


def test_rescaling_a_layer_rescales_its_climb_alike() -> None:
    """With weights c * w and gradients g / c the relative climb is the same."""
    u = _update(G, P, 0.0)
    c = {"a": 10.0, "b": 0.2}
    scaled = _update({k: x / c[k] for k, x in G.items()}, {k: x * c[k] for k, x in P.items()}, 0.0)
    for name in G:
        np.testing.assert_allclose(scaled[name] / c[name], u[name], rtol=1e-5, atol=1e-6)


def test_zero_gradients_stay_zero() -> None:
    u = _update({name: np.zeros_like(x) for name, x in G.items()}, P, 0.1)
    assert all(np.all(x == 0) for x in u.values())

"""Noise: its distribution, and that every step, leaf and key has its own."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def noise(key: Any, steps: int = 1, dtype: Any = jnp.float32, eta: float = 1.0, gamma: float = 0.55) -> Any:
    tx = gf.add_noise(eta, gamma, key)
    zeros = {"a": jnp.zeros((100, 100), dtype), "b": jnp.zeros((100, 100), dtype)}
    state = tx.init(zeros)
    seen = []
    for _ in range(steps):
        u, state = tx.update(zeros, state)
        seen.append(u)
    return seen


def test_the_variance_falls() -> None:
    for t, u in enumerate(noise(0, 3, eta=4.0)):
        for leaf in u.values():
            assert abs(np.mean(leaf)) < 0.1
            np.testing.assert_allclose(np.std(leaf), 2.0 / (1 + t) ** (0.55 / 2), rtol=0.03)


def test_steps_leaves_and_keys_differ() -> None:
    first, second = noise(0, 2)
    other, _ = noise(1, 2)
    drawn = [first["a"], first["b"], second["a"], second["b"], other["a"], other["b"]]
    for i, x in enumerate(drawn):
        for y in drawn[:i]:
            assert abs(np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]) < 0.05


def test_a_seed_a_key_and_a_raw_key_are_the_same() -> None:
    (seeded,) = noise(7)
    for key in (
        np.int64(7),
        jax.random.key(7),
        jax.random.PRNGKey(7),
        jax.random.key_data(jax.random.key(7)),
    ):
        np.testing.assert_array_equal(noise(key)[0]["a"], seeded["a"])


def test_another_generator_stays_itself() -> None:
    key = jax.random.key(7, impl="rbg")
    tx = gf.add_noise(1.0, 0.5, key)
    zeros = jnp.zeros((50, 50))
    state = tx.init(zeros)
    assert state.rng_key.shape == (4,)
    u, after = tx.update(zeros, state)
    assert after.rng_key.shape == (4,)
    np.testing.assert_allclose(np.std(u), 1.0, rtol=0.05)


def test_complex_noise_lies_in_both_parts() -> None:
    (u,) = noise(0, dtype=jnp.complex64)
    np.testing.assert_allclose([np.std(u["a"].real), np.std(u["a"].imag)], np.sqrt(0.5), rtol=0.05)


def test_a_key_may_be_mapped_over_and_is_not_donated() -> None:
    keys = jax.random.split(jax.random.key(0), 3)
    zeros = jnp.zeros(4)

    def draw(key: Any) -> Any:
        tx = gf.add_noise(1.0, 0.5, key)
        return tx.update(zeros, tx.init(zeros))[0]

    for row, key in zip(jax.vmap(draw)(keys), keys, strict=True):
        np.testing.assert_allclose(row, draw(key), rtol=1e-6)
    raw = jax.random.PRNGKey(0)
    state = gf.add_noise(1.0, 0.5, raw).init(zeros)
    assert state.rng_key.unsafe_buffer_pointer() != raw.unsafe_buffer_pointer()


def test_no_variance_is_no_noise() -> None:
    (u,) = noise(0, eta=0.0)
    np.testing.assert_array_equal(u["a"], np.zeros((100, 100)))


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_count_is_of_steps_taken(gamma: float) -> None:
    tx = gf.add_noise(1.0, gamma, 0)
    zeros = jnp.zeros(10000)
    late = tx.init(zeros)._replace(count=jnp.asarray(99, jnp.int32))
    u, state = tx.update(zeros, late)
    assert state.count == 100
    np.testing.assert_allclose(np.std(u), 0.1**gamma, rtol=0.05)


GRADS = {"a": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(4)}


def drawn(tx: Any, grads: Any) -> Any:
    state = tx.init(GRADS)
    seen = []
    for _ in range(3):
        u, state = tx.update(grads, state, GRADS)
        seen.append(u)
    return seen


def close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_no_key_is_key_0_with_a_warning() -> None:
    for name, arguments in (("noisy_sgd", (1.0,)), ("add_noise", (0.1, 0.5))):
        with pytest.warns(UserWarning, match="'key' is None, so every run has the noise of key 0") as caught:
            tx = getattr(gf, name)(*arguments)
        assert len(caught) == 1
        close(drawn(tx, GRADS), drawn(getattr(gf, name)(*arguments, key=0), GRADS))


def test_a_private_key_has_no_default() -> None:
    for make in (gf.dpsgd, gf.differentially_private_aggregate):
        arguments = (0.1, 1.0, 1.0) if make is gf.dpsgd else (1.0, 1.0)
        with pytest.raises(
            TypeError, match="differentially_private_aggregate: argument 'key' must be one PRNG key"
        ):
            make(*arguments)


PER_EXAMPLE = jax.tree.map(lambda g: jnp.stack([g, -2 * g, g + 1]), GRADS)
MAKERS = {
    "add_noise": (lambda o, **key: o.add_noise(0.3, 0.55, **key), GRADS),
    "noisy_sgd": (lambda o, **key: o.noisy_sgd(0.1, **key), GRADS),
    "dpsgd": (lambda o, **key: getattr(o, "contrib", o).dpsgd(0.1, 1.5, 0.7, **key), PER_EXAMPLE),
    "differentially_private_aggregate": (
        lambda o, **key: getattr(o, "contrib", o).differentially_private_aggregate(1.5, 0.7, **key),
        PER_EXAMPLE,
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_seed_is_another_name_of_key(name: str) -> None:
    make, grads = MAKERS[name]
    jax.tree.map(np.testing.assert_array_equal, drawn(make(gf, seed=7), grads), drawn(make(gf, key=7), grads))
    with pytest.raises(ValueError, match="only one of the arguments 'key' and 'seed' must be given"):
        make(gf, key=7, seed=7)


@pytest.mark.parametrize("name", MAKERS)
def test_one_key_has_the_noise_that_it_has_in_the_field(name: str) -> None:
    optax = pytest.importorskip("optax")
    make, grads = MAKERS[name]
    with jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = drawn(make(optax, seed=7) if name == "dpsgd" else make(optax, key=7), grads)
    close(drawn(make(gf, key=7), grads), theirs)

"""with_qk_clip: logits of heads shrink to the threshold, and what does not fit is named."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

HEADS, DIM, WIDTH = 4, 3, 5


def _params(dtype: Any = jnp.float32, key_heads: int = HEADS) -> Any:
    rng = np.random.default_rng(0)
    shapes = {"query": (WIDTH, HEADS, DIM), "key": (WIDTH, key_heads, DIM), "value": (WIDTH, HEADS, DIM)}
    layer = {name: {"kernel": rng.normal(size=shape)} for name, shape in shapes.items()}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), {"block_0": layer, "block_1": layer})


def _tx(head_axis: int = -2, **options: Any) -> Any:
    return gf.with_qk_clip(gf.sgd(0.1), "**/query/kernel", "**/key/kernel", head_axis, **options)


def _step(tx: Any, params: Any, **extra: Any) -> Any:
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, **extra)
    return gf.apply_updates(params, updates)


LOGITS = {"block_0": jnp.asarray([50.0, 100.0, 200.0, 400.0]), "block_1": jnp.full(HEADS, 10.0)}
GAMMA = np.asarray([1.0, 1.0, 0.5, 0.25])


@pytest.mark.parametrize("alpha", [0.5, 0.0, 1.0])
def test_the_papers_equations(alpha: float) -> None:
    with jax.enable_x64(True):
        params = _params(jnp.float64)
        logits = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), LOGITS)
        moved = jax.tree.map(np.asarray, _step(_tx(alpha=alpha), params, max_logits=logits))
        stepped = jax.tree.map(lambda p: np.asarray(p) - 0.1, params)
    for name, power in (("query", alpha), ("key", 1 - alpha)):
        expected = stepped["block_0"][name]["kernel"] * (GAMMA**power)[:, None]
        np.testing.assert_allclose(moved["block_0"][name]["kernel"], expected, rtol=1e-12)
    for block, name in (("block_0", "value"), ("block_1", "key")):
        np.testing.assert_allclose(moved[block][name]["kernel"], stepped[block][name]["kernel"], 1e-12)


def test_the_largest_logits_fall_to_the_threshold() -> None:
    params = _params()["block_0"]
    x = jax.random.normal(jax.random.key(0), (7, WIDTH))

    def largest(params: Any) -> Any:
        q, k = (jnp.einsum("tw,whd->htd", x, params[name]["kernel"]) for name in ("query", "key"))
        return jnp.max(jnp.abs(jnp.einsum("htd,hsd->hts", q, k)), axis=(1, 2))

    before = largest(params)
    threshold = float(jnp.sort(before)[1])
    tx = gf.with_qk_clip(gf.set_to_zero(), "query/*", "key/*", -2, threshold=threshold)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params, max_logits=before)
    after = largest(gf.apply_updates(params, updates))
    np.testing.assert_allclose(after, jnp.minimum(before, threshold), rtol=1e-5)


def test_flat_heads_stacked_layers_and_groups() -> None:
    params = _params()
    flat = jax.tree.map(lambda p: p.reshape(WIDTH, HEADS * DIM), params)
    expected = jax.tree.map(lambda p: p.reshape(WIDTH, HEADS * DIM), _step(_tx(), params, max_logits=LOGITS))
    jax.tree.map(np.testing.assert_array_equal, _step(_tx(-1), flat, max_logits=LOGITS), expected)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), params["block_0"], params["block_1"])
    logits = jnp.stack([LOGITS["block_0"], LOGITS["block_1"]])
    both = _step(_tx(), {"layers": stacked}, max_logits={"layers": logits})["layers"]
    expected = _step(_tx(), params, max_logits=LOGITS)
    np.testing.assert_allclose(both["key"]["kernel"][0], expected["block_0"]["key"]["kernel"], 1e-6)

    grouped = _params(key_heads=2)
    moved = _step(_tx(), grouped, max_logits=LOGITS)["block_0"]["key"]["kernel"]
    factor = np.sqrt([1.0, 0.25])[:, None]
    np.testing.assert_allclose(
        moved, (np.asarray(grouped["block_0"]["key"]["kernel"]) - 0.1) * factor, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_weights_keep_their_dtype(dtype: Any) -> None:
    moved = _step(_tx(), _params(dtype), max_logits=LOGITS)
    exact = _step(_tx(), _params(), max_logits=LOGITS)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(exact), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0.02, atol=0.02)


def test_logits_that_are_not_finite_clip_nothing() -> None:
    params = _params()
    strange = {"block_0": jnp.asarray([jnp.nan, jnp.inf, -jnp.inf, 0.0]), "block_1": jnp.zeros(HEADS)}
    moved = _step(_tx(), params, max_logits=strange)
    jax.tree.map(lambda a, p: np.testing.assert_allclose(a, p - 0.1, rtol=1e-5, atol=1e-6), moved, params)


MISTAKES = {
    "a layer is missing": (
        {"block_0": LOGITS["block_0"]},
        "nothing for the weight at 'block_1/query/kernel'",
    ),
    "another number of heads": (jnp.ones(3), "'block_0/query/kernel', .* does not have the 3 heads"),
    "a number": (jnp.float32(3.0), "must have arrays of floating-point numbers"),
    "integers": ({"block_0": jnp.arange(4)}, r"got int32\[4\] at 'block_0'"),
    "no logits": (None, "got None at the root"),
    "nothing": ({}, "'block_0/query/kernel'; it has no arrays"),
    "no heads": (jnp.ones(0), r"does not have the 0 heads of 'max_logits', of shape \(0,\)"),
    "complex numbers": (jnp.ones(4, complex), r"got complex64\[4\] at the root"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_logits_that_do_not_fit_are_named(name: str) -> None:
    logits, message = MISTAKES[name]
    with pytest.raises((ValueError, TypeError), match=message):
        _step(_tx(), _params(), max_logits=logits)


def test_logits_must_be_given_and_roles_differ() -> None:
    with pytest.raises(TypeError, match="needs the extra argument 'max_logits'"):
        _step(_tx(), _params())
    tx = gf.with_qk_clip(gf.sgd(0.1), "**/kernel", "**/key/*", -2)
    with pytest.raises(ValueError, match="chosen by 'queries' and by 'keys'"):
        _step(tx, _params(), max_logits=LOGITS)

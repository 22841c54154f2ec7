"""conditionally_transform, conditionally_mask and split_real_and_imaginary."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf

PARAMS = {"w": jnp.ones(3), "b": None}
GRADS = {"w": jnp.full(3, 2.0), "b": None}


@pytest.mark.parametrize(
    ("make", "otherwise"), [(gf.conditionally_transform, 2.0), (gf.conditionally_mask, 0.0)]
)
def test_the_chosen_steps_alone(make: Any, otherwise: float) -> None:
    tx = make(gf.trace(1.0), lambda step: step % 3 == 1)
    state = tx.init(PARAMS)
    out = []
    for _ in range(6):
        updates, state = jax.jit(tx.update)(GRADS, state, PARAMS)
        assert updates["b"] is None
        out.append(float(updates["w"][0]))
    assert out == [otherwise, 2.0, otherwise, otherwise, 4.0, otherwise]
    assert int(state.step) == 6
    assert float(state.inner_state.trace["w"][0]) == 4.0


@pytest.mark.parametrize("make", [gf.conditionally_transform, gf.conditionally_mask])
def test_extra_arguments_are_forwarded_on_request(make: Any) -> None:
    tx = make(gf.set_to_zero(), lambda step, value, **_: value > 1.0, forward_extra_args=True)
    for value, expected in ((0.5, 2.0 if make is gf.conditionally_transform else 0.0), (1.5, 0.0)):
        with gf.collecting() as heard:
            updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=jnp.float32(value), epoch=3)
        assert float(updates["w"][0]) == expected
        assert bool(heard.values["transformed"]) == (value > 1)
    inner = make(gf.reduce_on_plateau(), lambda step: True)
    inner.update(GRADS, inner.init(PARAMS), PARAMS, value=jnp.float32(1))


@pytest.mark.parametrize("make", [gf.conditionally_transform, gf.conditionally_mask])
def test_answers_that_are_no_boolean_are_named(make: Any) -> None:
    for answer, error, words in (
        (None, TypeError, "or a boolean array; got None"),
        (1.0, TypeError, "or a boolean array; got 1.0"),
        (jnp.ones(2, bool), ValueError, r"must return one boolean; got bool\[2\]"),
    ):
        tx = make(gf.sgd(0.1), lambda step, answer=answer: answer)
        with pytest.raises(error, match=words):
            tx.update(GRADS, tx.init(PARAMS), PARAMS)


def test_each_part_of_a_complex_number_has_moments_of_its_own() -> None:
    params = {"z": jnp.asarray([1 + 2j, 3 - 1j], jnp.complex64), "x": jnp.ones(2), "none": None}
    grads = {"z": jnp.asarray([1 - 4j, 0.5j], jnp.complex64), "x": jnp.full(2, 0.5), "none": None}
    tx = gf.split_real_and_imaginary(gf.adam(0.1))
    real = {"a": params["z"].real, "b": params["z"].imag, "x": params["x"]}
    plain = gf.adam(0.1)
    state, other = tx.init(params), plain.init(real)
    assert isinstance(state, gf.SplitRealAndImaginaryState)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        parts = {"a": grads["z"].real, "b": grads["z"].imag, "x": grads["x"]}
        expected, other = plain.update(parts, other, real)
        np.testing.assert_allclose(updates["z"], jax.lax.complex(expected["a"], expected["b"]), rtol=1e-6)
        np.testing.assert_allclose(updates["x"], expected["x"], rtol=1e-6)
    assert updates["z"].dtype == jnp.complex64
    assert updates["none"] is None


def test_a_rule_for_real_numbers_takes_complex_ones() -> None:
    params = {"z": jnp.asarray([1 + 2j], jnp.complex64)}
    with pytest.raises(TypeError, match="real"):
        gf.scale_by_sm3().init(params)
    tx = gf.split_real_and_imaginary(gf.scale_by_sm3())
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["z"].dtype == jnp.complex64

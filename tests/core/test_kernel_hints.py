"""Hints on kernels: the numbers stay as they are, and only the programs that they are for have them."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from platforms import accelerator_code, on_tpu

import gradflow as gf
from gradflow._kernel_hints import _joining
from gradflow._kernel_hints._placement import in_place_of
from gradflow._rules._leafwise import _parts

ODD = [np.nan, -0.0, np.inf, 1e-45, -3.5]


def test_a_value_stays_that_seems_to_depend_on_an_average(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_joining, "by_platform", on_tpu)
    averages = jnp.asarray([0.0, 1.0, jnp.inf, jnp.nan, 3e38])
    values = jnp.asarray([1 + 2j, -jnp.inf, jnp.nan, 4e-45, 0.0], jnp.complex64)
    np.testing.assert_array_equal(_joining.in_kernel_of(averages, values), values)


def test_numbers_linked_into_one_kernel_keep_their_bits() -> None:
    values = [jnp.int32(7), jnp.int32(-1), *map(jnp.float32, ODD), jnp.bool_(True), jnp.bool_(False)]
    values += [jnp.int32(2**31 - 1)]
    linked = _joining._linked(*values)
    for before, after in zip(values, linked, strict=True):
        assert before.dtype == after.dtype
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert "select_n" in str(jax.make_jaxpr(_joining._linked)(*values[:2]))


def test_a_link_is_made_for_accelerators_alone_and_passes_derivatives() -> None:
    def f(x: Any) -> Any:
        a, b = _joining.in_one_kernel([x * x, 3 * x])
        return a * b

    def program() -> str:
        return jax.jit(lambda x: f(x)).lower(2.0).as_text()

    assert "select" not in program()
    assert jax.grad(f)(2.0) == 36.0
    with accelerator_code():
        assert "select" in program()
        assert jax.jit(jax.grad(f))(2.0) == 36.0


@pytest.mark.parametrize("count", [1, 5])
def test_numbers_read_from_one_array_keep_their_bits(count: int) -> None:
    values = [jnp.float32(x) for x in ODD[:count]]
    for before, after in zip(values, _joining._from_array(*values), strict=True):
        assert before.shape == after.shape
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    for before, after in zip(values, _joining._from_array(*values, part=3), strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()


def test_leaves_of_a_shape_share_kernels_up_to_a_limit_the_last_ones_first() -> None:
    """Kernels of 2^22 numbers: four leaves of a million, and each part reads an array of its own."""
    large, small = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1024, 1024), (8, 4)))
    like = [large] * 3 + [small] + [large] * 3
    assert _parts([(x,) for x in like], [*range(7)]) == [[2, 3, 4, 5, 6], [0, 1]]
    tx = gf.adam(1e-3)
    state = jax.eval_shape(tx.init, like)
    text = str(jax.make_jaxpr(tx.update)(like, state))
    assert re.findall(r"in_one_array\[\s*part=(\d)", text) == ["0", "1"]


def test_an_array_is_made_for_accelerators_alone_and_passes_derivatives_and_maps() -> None:
    def f(x: Any) -> Any:
        a, b = _joining.in_one_array([x * x, jnp.float32(3)])
        return a * b

    def program() -> str:
        return jax.jit(lambda x: f(x)).lower(2.0).as_text()

    assert "concatenate" not in program()
    assert jax.grad(f)(2.0) == 12.0
    with accelerator_code():
        assert "concatenate" in program()
        assert jax.jit(jax.grad(f))(2.0) == 12.0
        np.testing.assert_array_equal(jax.jit(jax.vmap(f))(jnp.arange(3.0)), [0, 3, 12])


JOINED = {
    "adamw": (lambda: gf.adamw(1e-3), True),
    "a constant rate": (lambda: gf.sgd(1e-3), True),
    "a guard": (lambda: gf.apply_if_finite(gf.adam(1e-3), 3), True),
    "norms of gradients": (lambda: gf.chain(gf.clip_by_block_rms(1.0), gf.adam(1e-3)), True),
    "a guard of updates": (lambda: gf.chain(gf.trace(0.9), gf.apply_if_finite(gf.adam(1e-3), 3)), False),
    "a limit of spikes in updates": (lambda: gf.chain(gf.trace(0.9), gf.skip_spikes(gf.adam(1e-3))), False),
    "metrics": (lambda: gf.with_metrics(gf.adam(1e-3)), False),
    "a norm of updates": (lambda: gf.chain(gf.trace(0.9), gf.clip_by_global_norm(1.0)), False),
    "norms of updates": (lambda: gf.lamb(1e-3), False),
    "norms of updates, accumulated": (lambda: gf.MultiSteps(gf.lamb(1e-3), 2), False),
    "distances of updates": (lambda: gf.chain(gf.trace(0.9), gf.scale_by_dog()), False),
    "factors": (lambda: gf.sm3(1e-3), False),
    "large leaves": (lambda: gf.adamw(1e-3), False),
}


@pytest.mark.parametrize("name", JOINED)
def test_equal_leaves_are_joined_where_no_stage_writes_them_for_the_next(name: str) -> None:
    make, expected = JOINED[name]
    like = jax.ShapeDtypeStruct((2049, 1024) if name == "large leaves" else (8, 4), jnp.float32)
    tx = make()
    state = jax.eval_shape(tx.init, like)
    jaxpr = jax.make_jaxpr(tx.update)(like, state, like)
    assert ("in_one_array" in str(jaxpr)) == expected


@pytest.mark.parametrize("axis", [0, 1])
def test_a_link_maps_only_what_is_mapped(axis: int) -> None:
    """A counter without a mapped axis keeps none, though it is linked with numbers that have one."""
    link = jax.jit(lambda *values: tuple(_joining.in_one_kernel(list(values))))
    rates = jnp.arange(3.0)
    with accelerator_code():
        count, rate, other = jax.vmap(link, in_axes=(None, 0, None), out_axes=(None, 0, None))(1, rates, 2.0)
        assert (int(count), float(other)) == (1, 2.0)
        np.testing.assert_array_equal(rate, rates)
        old = jnp.arange(6.0).reshape(2, 3)
        place = jax.vmap(in_place_of, in_axes=(axis, axis), out_axes=axis)
        np.testing.assert_array_equal(place(old, old + 1), old + 1)


def test_an_unmapped_counter_of_a_mapped_step_stays_unmapped() -> None:
    """Under `vmap` over a decay, Adam's bias corrections are mapped and its counters are not."""
    params = jnp.ones(4)
    state = gf.adam(1e-2).init(params)

    def step(b1: Any) -> Any:
        return gf.adam(1e-2, b1=b1).update(params, state, params)[1][0].count

    for run in (step, jax.jit(step)):
        count = jax.vmap(run, out_axes=None)(jnp.array([0.8, 0.9]))
        assert int(count) == 1

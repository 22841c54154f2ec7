"""States in fewer bits: codes against NumPy in float64, rounding without bias, steps, wrong arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program_size import every_equation

import gradflow as gf
from gradflow._coding._leaves import is_coded
from gradflow._coding._make import quantized_leaf, rounded_leaf

X = np.random.default_rng(0).normal(size=(20, 6)) * np.exp(np.random.default_rng(1).normal(size=(20, 6)))
X32 = jnp.asarray(X, jnp.float32)
SEED = jnp.uint32(5)
# ruff: noqa: E501  # one line for each wrong argument


@jax.jit
def encode(leaf: Any, x: jax.Array) -> Any:
    """The coded leaf of new numbers, and those."""
    new = leaf.encode(x)
    return new, new.decode()


def grid(role: str, bits: int) -> np.ndarray:
    """The numbers between 0 and 1 that a code can be."""
    if role == "square":
        return (np.arange(256) / 255) ** 4
    largest = 2 ** (bits - 1) - 1
    return (np.arange(largest + 1) / largest) ** 2


def nearest(x: np.ndarray, role: str, bits: int, block: int) -> np.ndarray:
    """Each number as the nearest of its block's grid, along the first axis."""
    out = np.empty_like(x)
    for start in range(0, len(x), block):
        part = x[start : start + block]
        scale = np.abs(part).max(0)
        distance = np.abs(np.abs(part)[..., None] / scale[..., None] - grid(role, bits))
        out[start : start + block] = np.sign(part) * grid(role, bits)[distance.argmin(-1)] * scale
    return out


@pytest.mark.parametrize(("role", "bits", "block"), [("mean", 8, 10), ("square", 8, 10), ("mean", 4, 10)])
def test_codes_are_the_nearest_of_the_grid(role: str, bits: int, block: int) -> None:
    x = X**2 if role == "square" else X
    leaf = quantized_leaf(jnp.asarray(x, jnp.float32), SEED, role, bits, block)
    assert leaf.shape == X.shape
    assert leaf.scales.shape == (2, 6)
    assert leaf.codes.nbytes * 8 == X.size * bits
    expected = nearest(x, role, bits, block)
    if role == "square":
        # A positive number never becomes 0.
        expected = np.where(expected == 0, x.reshape(2, 10, 6).max(1).repeat(10, 0) / 255**4, expected)
    np.testing.assert_allclose(leaf.decode(), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("role", "bits"), [("mean", 8), ("square", 8), ("mean", 4), ("bfloat16", 0), ("float16", 0)]
)
def test_stochastic_rounding_has_no_bias(role: str, bits: int) -> None:
    """The mean of many roundings is the number; each is one of its two neighbors."""
    x = jnp.abs(X32) + 0.5 if role == "square" else X32
    leaf = quantized_leaf(x, SEED, role, bits, 10) if bits else rounded_leaf(x, SEED, jnp.dtype(role))
    seeds = jnp.arange(4096, dtype=jnp.uint32)
    drawn = jax.jit(jax.vmap(lambda seed: encode(leaf._replace(seed=seed), x)[1]))(seeds)
    drawn = np.asarray(drawn, np.float64)
    spread = np.maximum(np.std(drawn, 0), 1e-9)
    assert np.all(np.abs(np.mean(drawn, 0) - x) < 5 * spread / 64 + 1e-6 * np.abs(x))
    assert max(len(np.unique(column)) for column in np.asarray(drawn).reshape(4096, -1).T) == 2
    assert np.mean(spread > 1e-8) > 0.5, "most numbers are between two codes"


@pytest.mark.parametrize(("role", "bits"), [("mean", 8), ("square", 8), ("mean", 4)])
def test_a_code_is_made_by_an_operation_of_integers(role: str, bits: int) -> None:
    """A GPU stores the low bits of a float32 number by converting the number, which gave -1 for all codes."""
    leaf = quantized_leaf(X32, SEED, role, bits, 10)
    program = list(every_equation(jax.make_jaxpr(leaf.encode)(X32).jaxpr))
    made_by = {result: equation.primitive.name for equation in program for result in equation.outvars}
    narrowed = [
        made_by[equation.invars[0]]
        for equation in program
        if equation.primitive.name == "convert_element_type" and equation.outvars[0].aval.dtype.itemsize == 1
    ]
    assert narrowed in (["xor"], ["or"])


def test_seeds_move_on_and_places_differ() -> None:
    x = jnp.full((64, 8), 0.3).at[0].set(1.0)
    first, _ = encode(quantized_leaf(x, SEED, "mean", 8, 64), x)
    second, _ = encode(first, x)
    assert int(second.seed) == int(SEED) + 2
    share = np.mean(np.asarray(first.codes[1:]) != np.asarray(second.codes[1:]))
    assert 0.1 < share < 0.9


def test_the_largest_number_of_a_block_stays_and_zeros_are_zeros() -> None:
    leaf = quantized_leaf(X32, SEED, "mean", 8, 10)
    x = leaf.decode()
    for _ in range(50):
        leaf, x = encode(leaf, x)
    np.testing.assert_array_equal(jnp.max(jnp.abs(x), 0), jnp.max(jnp.abs(X32), 0))
    for role in ("mean", "square"):
        assert not np.any(
            quantized_leaf(jnp.zeros((5, 3)), SEED, role, 8, 4).encode(jnp.zeros((5, 3))).decode()
        )


def test_a_number_that_is_not_finite_shows() -> None:
    for role, bits in (("mean", 8), ("square", 8), ("mean", 4)):
        for bad in (np.nan, np.inf):
            leaf = quantized_leaf(jnp.abs(X32).at[3, 2].set(bad), SEED, role, bits, 10)
            assert not np.all(np.isfinite(leaf.decode()[:10, 2]))
            assert np.all(np.isfinite(leaf.decode()[:, :2]))
    for dtype in ("bfloat16", "float16"):
        leaf = rounded_leaf(jnp.asarray([np.nan, np.inf, -np.inf, 3e38]), SEED, jnp.dtype(dtype))
        back = np.asarray(leaf.encode(jnp.asarray([np.nan, np.inf, -np.inf, 3e38])).decode())
        assert np.isnan(back[0])
        np.testing.assert_array_equal(back[1:3], [np.inf, -np.inf])
        assert np.isfinite(back[3])


def test_axes_that_no_block_divides() -> None:
    """The last block is shorter; 4 bits need an even one that divides, or there are 8."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(13, 7)), jnp.float32)
    leaf = quantized_leaf(x, SEED, "mean", 8, 5)
    assert leaf.scales.shape == (3, 7)
    np.testing.assert_allclose(leaf.decode(), nearest(np.asarray(x, np.float64), "mean", 8, 5), rtol=2e-5)
    assert isinstance(quantized_leaf(x, SEED, "mean", 4, 4), gf.QuantizedMean)
    assert isinstance(quantized_leaf(jnp.zeros((7, 12)), SEED, "mean", 4, 6), gf.PackedMean)


def steps(tx: Any, count: int = 60) -> jax.Array:
    """The parameters after steps on a quadratic of differing curvatures."""
    params = {"w": X32}
    state = tx.init(params)
    scales = jnp.linspace(0.1, 3, 6)[None]

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update({"w": params["w"] * scales}, state, params)
        return gf.apply_updates(params, updates), state

    for _ in range(count):
        params, state = step(params, state)
    return params["w"]


@pytest.mark.parametrize(
    "inner", [gf.adamw(0.02), gf.lion(0.01), gf.muon(0.02)], ids=["adamw", "lion", "muon"]
)
def test_coded_steps_follow_the_plain_ones(inner: Any) -> None:
    plain = steps(inner)
    moved = float(jnp.linalg.norm(plain - X32))
    for tx, bound in (
        (gf.quantize_state(inner, block=10, min_size=1), 0.05),
        (gf.cast_state(inner, {"mean": "bfloat16"}), 0.02),
    ):
        away = float(jnp.linalg.norm(steps(tx) - plain)) / moved
        assert 0 < away < bound


def test_squares_in_bfloat16_decay_only_when_rounding_is_stochastic() -> None:
    """With decay 0.999 a step is a quarter of the gap between two neighbors."""
    zeros = {"w": jnp.zeros((8, 16))}
    for rounding, least, most in (("nearest", 0.99, 1.01), ("stochastic", 0.8, 0.88)):
        tx = gf.cast_state(gf.scale_by_adam(), {"square": "bfloat16"}, rounding)
        state = tx.init(zeros)
        adam = state.inner_state
        start = adam.nu["w"]._replace(codes=jnp.ones((8, 16), jnp.bfloat16))
        state = gf.CodedState(adam._replace(nu={"w": start}))
        update = jax.jit(tx.update)
        for _ in range(180):
            _, state = update(zeros, state)
        left = float(jnp.mean(state.inner_state.nu["w"].decode()))
        assert least < left < most, "0.999^180 is 0.835"


def test_only_what_is_large_and_has_a_role_is_coded() -> None:
    tx = gf.quantize_state(gf.chain(gf.scale_by_adam(), gf.adagrad(0.1)), min_size=100)
    state = tx.init({"w": X32, "b": X32[0]}).inner_state
    assert is_coded(state[0].mu["w"])
    assert is_coded(state[0].nu["w"])
    assert not is_coded(state[0].mu["b"])
    assert not any(map(is_coded, jax.tree.leaves(state[1], is_leaf=is_coded))), "sums stay as they are"


def test_dtypes_by_role_and_field() -> None:
    inner = gf.chain(gf.scale_by_adam(), gf.trace(0.9, accumulator_dtype=jnp.bfloat16))
    tx = gf.cast_state(inner, {"mean": "bfloat16", "square": jnp.bfloat16, "scale_by_adam.nu": "float32",
                               "trace.trace": "float32"})  # fmt: skip
    adam, trace = tx.init({"w": X32}).inner_state
    assert isinstance(adam.mu["w"], gf.RoundedLeaf)
    assert adam.mu["w"].codes.dtype == jnp.bfloat16
    assert isinstance(adam.nu["w"], jax.Array)
    assert adam.nu["w"].dtype == jnp.float32
    assert trace.trace["w"].dtype == jnp.float32


def test_eight_bit_adamw_takes_two_bytes_a_parameter() -> None:
    params = {"w": jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
    for bits, most in ((8, 2.04), (4, 1.54)):
        seen = gf.summary(gf.quantize_state(gf.adamw(1e-3), bits), params)
        assert most - 0.02 < seen.state_bytes / 2**20 < most
        assert [row.state_bytes > 2**20 for row in seen.rows] == [True, False, False], "it is Adam's own"


def test_the_decoded_state_is_not_written() -> None:
    """The compiled step has less scratch memory than one decoded leaf: codes are decoded inside the rule."""
    tx = gf.quantize_state(gf.adamw(1e-3), min_size=1)
    params = {i: jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(4)}
    state = jax.eval_shape(tx.init, params)
    traced = jax.jit(tx.update).trace(params, state, params).jaxpr
    names = [str(equation.params.get("name")) for equation in traced.eqns]
    assert names.count("adam_rule") == 4
    wide = [v.aval for e in traced.eqns for v in e.outvars if v.aval.shape == (256, 256)]
    assert sum(aval.dtype == jnp.float32 for aval in wide) == 12, "updates of three stages, and no moment"


def test_wrappers_and_parts_of_a_tree() -> None:
    """Coded inside and outside of a guard, an accumulation and a partition; the state keeps its form."""
    split = {"w": gf.quantize_state(gf.muon(0.02), block=10, min_size=1), "**": gf.adamw(0.01)}
    params = {"w": X32, "b": X32[0]}
    for tx in (
        gf.partition(split),
        gf.quantize_state(gf.MultiSteps(gf.apply_if_finite(gf.adamw(0.01), 3), 2), block=10, min_size=1),
        gf.with_metrics(gf.MultiSteps(gf.apply_if_finite(gf.partition(split), 3), 2)),
    ):
        state = tx.init(params)
        step = jax.jit(tx.update)
        for _ in range(3):
            updates, after = step(params, state, params)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            state = after
        assert sum(map(is_coded, jax.tree.leaves(state, is_leaf=is_coded))) >= 1
        assert all(np.all(np.isfinite(u)) for u in jax.tree.leaves(updates))


ADAM = gf.adam(0.1)
WRONG = [
    (lambda: gf.quantize_state(ADAM, 3), ValueError, "'bits' must be 4 or 8; got 3"),
    (lambda: gf.quantize_state(ADAM, block=0), ValueError, "'block' must be a whole number >= 1"),
    (lambda: gf.quantize_state(ADAM, 4, 255), ValueError, "'block' must be even and at least 4 with 4 bits; got 255"),
    (lambda: gf.quantize_state(ADAM, rounding="up"), ValueError, "'rounding' must be 'stochastic' or 'nearest'"),
    (lambda: gf.cast_state(ADAM, {"mu": "bfloat16"}), ValueError, "There are: mean, square, scale_by_adam.mu, scale_by_adam.nu"),
    (lambda: gf.cast_state(ADAM, {"sum": "bfloat16"}), ValueError, "must name roles or fields of the state; got 'sum'"),
    (lambda: gf.cast_state(ADAM, {"scale_by_adam.count": "bfloat16"}), ValueError, "got 'scale_by_adam.count'"),
    (lambda: gf.cast_state(gf.dog(), {"weights": "bfloat16"}), ValueError, "'weights', which holds weights: a step"),
    (lambda: gf.cast_state(ADAM, {"square": "float16"}), ValueError, "'square' must be one of float32, bfloat16"),
    (lambda: gf.cast_state(ADAM, {"mean": "int8"}), ValueError, "'mean' must be one of float32, bfloat16, float16"),
    (lambda: gf.cast_state(ADAM, {}), ValueError, "must name at least one role or field; got none"),
    (lambda: gf.cast_state(ADAM, "bfloat16"), TypeError, "argument 'dtypes' must be a dict"),
    (lambda: gf.quantize_state(ADAM, min_size=1).init(jnp.ones(3, jnp.complex64)), TypeError,
     "'mu' of ScaleByAdamState must hold real numbers"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), WRONG)
def test_wrong_arguments(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)

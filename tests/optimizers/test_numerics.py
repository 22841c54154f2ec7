"""What goes wrong when these rules are written down naively."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow.optimizers._kronecker import limited
from gradflow.optimizers._radam import average_length


def updates_of(tx: Any, gradients: list[Any], params: Any = None) -> tuple[list[Any], Any]:
    params = jax.tree.map(jnp.zeros_like, gradients[0]) if params is None else params
    state, step, history = tx.init(params), jax.jit(tx.update), []
    for g in gradients:
        u, state = step(g, state, params)
        params = gf.apply_updates(params, u)
        history.append(u)
    return history, state


def test_rprop_steps_at_once_and_grows_at_the_second_step() -> None:
    g = jnp.asarray([2.0, -3.0, 0.0])
    history, state = updates_of(gf.rprop(0.1), [g, g, -g, g])
    signs = np.asarray([-1.0, 1.0, 0.0])
    for u, size in zip(history, [0.1, 0.12, 0.0, 0.06], strict=True):
        np.testing.assert_allclose(u, size * signs, rtol=1e-6)
    np.testing.assert_allclose(state[0].step_sizes, [0.06, 0.06, 0.1], rtol=1e-6)


def test_rprop_reads_signs_that_half_precision_cannot_hold() -> None:
    g = jnp.full((2,), 1e-12, jnp.float32)
    history, _ = updates_of(gf.rprop(0.1), [g, g], jnp.zeros((2,), jnp.float16))
    np.testing.assert_allclose(history[1], -0.12, rtol=1e-3)


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("eps_in_sqrt", [False, True])
def test_centred_rmsprop_on_a_constant_gradient(bias_correction: bool, eps_in_sqrt: bool) -> None:
    """The variance of equal numbers is a difference that cancels; formed directly it turns negative."""
    steps = 60

    def run(dtype: Any) -> Any:
        tx = gf.scale_by_stddev(eps=1e-3, bias_correction=bias_correction, eps_in_sqrt=eps_in_sqrt)
        return np.asarray(updates_of(tx, [jnp.full((2,), 3.7, dtype)] * steps)[0], np.float64)

    with jax.enable_x64(True):
        expected = run(jnp.float64)
    np.testing.assert_allclose(run(jnp.float32), expected, rtol=1e-3)
    assert (expected > 0).all()


def test_centred_rmsprop_of_half_precision_parameters_finds_no_deviation_in_rounding() -> None:
    g = jnp.full((2,), 1.01, jnp.float32)
    tx = gf.scale_by_stddev(decay=0.99)
    _, state = updates_of(tx, [g] * 600, jnp.zeros((2,), jnp.bfloat16))
    np.testing.assert_allclose(state.mu, 1.01 * (1 - 0.99**600), rtol=1e-5)


@pytest.mark.parametrize("max_of_raw", [False, True])
def test_amsgrad_keeps_the_maximum_of_either_kind(max_of_raw: bool) -> None:
    gradients = [jnp.asarray([4.0]), jnp.asarray([1.0]), jnp.asarray([0.0])]
    _, state = updates_of(gf.scale_by_amsgrad(b1=0.0, b2=0.5, max_of_raw=max_of_raw), gradients)
    np.testing.assert_allclose(state.nu, [2.25], rtol=1e-6)
    np.testing.assert_allclose(state.nu_max, [8.0 if max_of_raw else 16.0], rtol=1e-6)


AVERAGES: dict[str, Callable[[], Any]] = {
    "amsgrad": lambda: gf.scale_by_amsgrad(),
    "nadam": lambda: gf.scale_by_nadam(),
    "rms": lambda: gf.scale_by_rms(0.999),
    "radam": lambda: gf.scale_by_radam(),
    "yogi": lambda: gf.scale_by_yogi(initial_accumulator_value=0.0),
    "ademamix": lambda: gf.scale_by_ademamix(),
    "adamax": lambda: gf.scale_by_adamax(),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_second_moments_of_bfloat16_parameters_decay(name: str) -> None:
    """In bfloat16 0.999 is 1, and the average of a past gradient would stay for ever."""
    one = jnp.ones((2,), jnp.bfloat16)

    def moment(dtype: Any) -> Any:
        gradients = [one.astype(dtype)] + [jnp.zeros_like(one, dtype)] * 99
        return np.asarray(updates_of(AVERAGES[name](), gradients)[1].nu, np.float64)

    with jax.enable_x64(True):
        expected = moment(jnp.float64)
    np.testing.assert_allclose(moment(jnp.bfloat16), expected, rtol=1e-4)


def test_slow_momentum_of_bfloat16_parameters_fills() -> None:
    _, state = updates_of(gf.scale_by_ademamix(b3=0.999), [jnp.ones((2,), jnp.bfloat16)] * 200)
    np.testing.assert_allclose(state.m2, 1 - 0.999**200, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_adagrad_survives_zero_gradients_on_an_empty_accumulator(value: float) -> None:
    zero, one = jnp.zeros((2,), jnp.float16), jnp.ones((2,), jnp.float16)
    history, _ = updates_of(gf.adagrad(1.0, initial_accumulator_value=value), [zero, one])
    np.testing.assert_array_equal(history[0], 0.0)
    np.testing.assert_allclose(history[1], -1 / np.sqrt(1 + value), rtol=1e-3)


def test_adadelta_without_a_rate_descends_as_in_the_paper() -> None:
    g = jnp.asarray([2.0])
    history, _ = updates_of(gf.adadelta(), [g])
    np.testing.assert_allclose(history[0], -np.sqrt(1e-6) / np.sqrt(0.1 * 4 + 1e-6) * 2, rtol=1e-5)


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999, 0.9999, 0.99999, 0.9999999])
def test_length_of_radams_average(b2: float) -> None:
    """Against exact arithmetic on the same float32 number: the formula as printed loses 2 / (1 - b2) ulps."""
    from fractions import Fraction

    c = np.float32(1 - np.float32(b2))
    b = 1 - Fraction(float(c))
    for t in [1, 2, 4, 5, 6, 10, 50, 300]:
        exact = 2 / (1 - b) - 1 - 2 * t * b**t / (1 - b**t)
        length = average_length(jnp.float32(c), jnp.int32(t))
        np.testing.assert_allclose(float(length), float(exact), rtol=3e-6)


def test_radam_begins_to_adapt_at_the_same_step_for_every_long_average() -> None:
    for b2 in (0.999, 0.99999, 0.999999):
        g = jnp.asarray([1e-3])
        history, _ = updates_of(gf.scale_by_radam(b1=0.0, b2=b2), [g] * 7)
        adapts = [bool(abs(float(u[0]) - 1e-3) > 1e-6) for u in history]
        assert adapts == [False] * 5 + [True] * 2, b2


def test_radam_of_a_short_average_never_adapts_and_is_finite() -> None:
    for b2 in (0.0, 0.3, 0.6):
        history, _ = updates_of(gf.scale_by_radam(b1=0.0, b2=b2), [jnp.asarray([2.0])] * 9)
        np.testing.assert_allclose(history, 2.0, rtol=1e-6)


def test_yogi_after_two_squares_beyond_the_largest_number() -> None:
    huge, one = jnp.asarray([1e30]), jnp.asarray([1.0])
    history, _ = updates_of(gf.yogi(0.1), [huge, -huge, one, huge])
    assert np.isfinite(np.asarray(history)).all()


@pytest.mark.parametrize(
    "build",
    [
        lambda: gf.simplified_ademamix(0.1),
        lambda: gf.madgrad(0.1),
        lambda: gf.adopt(0.1, use_clipping=False),
        lambda: gf.adan(0.1, official_scaling=True),
        lambda: gf.chain(gf.grokfast(), gf.scale(-0.1)),
    ],
)
def test_sums_beyond_the_largest_number_give_no_nan(build: Callable[[], Any]) -> None:
    huge, one = jnp.asarray([1e38]), jnp.asarray([1.0])
    history, state = updates_of(build(), [one, huge, -huge, huge, huge, huge, huge, one, -huge, one])
    for leaf in jax.tree.leaves((history, state)):
        assert not np.isnan(np.asarray(leaf)).any()


def test_fromage_shrinks_by_less_than_a_rounding_of_one() -> None:
    """At rate 1e-4 the factor is 1 - 5e-9, which float32 rounds to 1."""
    tx = gf.shrink_by_learning_rate(1e-4)
    p = jnp.asarray([1.0, -2.0])
    u, _ = tx.update(jnp.zeros_like(p), tx.init(p), p)
    np.testing.assert_allclose(u, -0.5e-8 * np.asarray(p), rtol=1e-5)


def test_sm3_of_scalars_vectors_tensors_and_nothing() -> None:
    shapes = {"scalar": (), "vector": (3,), "tensor": (2, 3, 4), "empty": (0, 2), "also": (2, 0)}
    params: dict[str, Any] = {name: jnp.ones(shape) for name, shape in shapes.items()}
    history, state = updates_of(gf.scale_by_sm3(b1=0.0), [{**params, "none": None}] * 2)
    assert [m.shape for m in state.mu["tensor"]] == [(2,), (3,), (4,)]
    assert [m.shape for m in state.mu["scalar"]] == [()]
    assert state.mu["none"] is None
    for name in shapes:
        np.testing.assert_allclose(history[1][name], np.full(shapes[name], 0.5**0.5), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-16, 1e-8, 1.0, 1e8, 1e15])
def test_madgrad_has_the_cube_root_s_digits(size: float) -> None:
    """u = -weight * g / cbrt(weight * g^2) where eps is negligible."""
    g = np.float32(size) * np.linspace(1, 2, 50, dtype=np.float32)
    tx = gf.scale_by_madgrad(0.5, momentum=0.0, eps=1e-20)
    u, _ = tx.update(jnp.asarray(g), tx.init(jnp.zeros(50)), jnp.zeros(50))
    exact = g.astype(np.float64)
    np.testing.assert_allclose(u, -0.5 * exact / np.cbrt(0.5 * exact**2), rtol=5e-7)


def test_madgrad_keeps_its_own_copy_of_the_first_parameters() -> None:
    params = jnp.arange(3.0)
    tx = gf.scale_by_madgrad(0.1)
    state = tx.init(params)
    assert state.x0.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()
    step = jax.jit(tx.update, donate_argnums=1)
    u, state = step(jnp.ones((3,)), state, params)
    step(jnp.ones((3,)), state, params + u)
    np.testing.assert_array_equal(params, np.arange(3.0))


@pytest.mark.parametrize("name", ["adan", "optimistic_gradient_descent"])
def test_the_last_gradient_is_a_copy_when_steps_are_not_compiled(name: str) -> None:
    params, g = jnp.zeros((3,)), jnp.ones((3,))
    tx = getattr(gf, name)(0.1)
    _, state = tx.update(g, tx.init(params), params)
    pointers = [x.unsafe_buffer_pointer() for x in (g, params, *jax.tree.leaves(state))]
    assert len(set(pointers)) == len(pointers)


def test_adan_weighs_the_change_in_either_way() -> None:
    gradients = [jnp.asarray([1.0]), jnp.asarray([3.0])]
    numbers = []
    for official in (False, True):
        tx = gf.scale_by_adan(b1=0.0, b2=0.9, b3=0.0, official_scaling=official)
        numbers.append(updates_of(tx, gradients)[0][1])
    for u, w in zip(numbers, (0.1, 0.9), strict=True):
        # v = 0.1 * (3 - 1), corrected by 1 - 0.9^2
        np.testing.assert_allclose(u, (3 + w * 0.2 / 0.19) / (3 + w * 2), rtol=1e-5)


@pytest.mark.parametrize("name", ["momo", "momo_adam"])
@pytest.mark.parametrize("value", [-1e38, -1e30, 1e30, 3e38, np.inf, np.nan])
def test_a_loss_that_says_nothing_is_left_out(name: str, value: float) -> None:
    """As an average of losses, one of -1e38 stopped training for 800 steps."""
    tx, p = getattr(gf, name)(adapt_lower_bound=True), jnp.asarray([1.0, -2.0])
    _, before = tx.update(p, tx.init(p), p, value=jnp.float32(2.5))
    u, after = tx.update(p, before, p, value=jnp.float32(value))
    np.testing.assert_array_equal(after.barf, before.barf)
    assert np.isfinite(np.asarray([*u, after.lb])).all()


@pytest.mark.parametrize("scale", [1.0, 1e-10])
def test_polyak_steps_of_finite_losses_are_finite(scale: float) -> None:
    tx, g = gf.scale_by_polyak(max_learning_rate=jnp.inf), jnp.asarray([3e-3 * scale, 1e-3 * scale])
    u, _ = tx.update(g, tx.init(g), g, value=jnp.float32(1e12))
    np.testing.assert_allclose(u, np.float64(g) * 1e12 / np.sum(np.float64(g) ** 2), rtol=1e-5)
    for value in (-3.4e38, 3.4e38):
        u, _ = tx.update(g, tx.init(g), g, value=jnp.float32(value))
        assert np.isfinite(u).all()
        assert np.all(np.sign(u) == np.sign(value))
    for value in (np.nan, -np.inf):
        assert not np.isfinite(tx.update(g, tx.init(g), g, value=jnp.float32(value))[0]).any()


@pytest.mark.parametrize("variant", ["sps", "sps+"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_polyak_steps_show_a_loss_that_is_not_finite(variant: str, value: float) -> None:
    """Bounded by `max_learning_rate` or by 0, an infinite loss would be an ordinary step."""
    tx, g = gf.scale_by_polyak(variant=variant), jnp.asarray([3.0, 0.0])
    for grads in (g, 0 * g):
        assert np.isnan(tx.update(grads, tx.init(g), g, value=jnp.float32(value))[0]).all()


def test_a_nan_in_a_large_matrix_stays_out_of_the_factors() -> None:
    """On a CPU the largest of thousands of numbers leaves a NaN out."""
    g = jnp.ones((64, 64))
    assert limited(g)[1]
    assert not limited(g.at[33, 4].set(jnp.nan))[1]


def test_sophia_without_a_threshold_is_finite_in_bfloat16() -> None:
    """The largest number of float32 is infinite in bfloat16."""
    g = jnp.asarray([8e37, -8e37], jnp.bfloat16)
    tx = gf.scale_by_sophia(clip_threshold=None, hessian_diagonal_fn=gf.set_to_zero())
    assert np.isfinite(np.asarray(tx.update(g, tx.init(g), g)[0], np.float32)).all()


def test_a_correction_of_the_largest_numbers_keeps_its_norm() -> None:
    tx, g = gf.mars_correction(), jnp.asarray([3.4e38, -1e38, 1e30])
    u, _ = tx.update(g, tx.init(g), g)
    exact = np.asarray([3.4, -1.0, 1e-8])
    np.testing.assert_allclose(u, exact / np.sqrt(np.sum(exact**2)), rtol=1e-5)


def test_grokfast_updates_of_the_largest_numbers_are_finite() -> None:
    tx, g = gf.grokfast(), jnp.asarray([3.4e38, -3.4e38, 1.0])
    u, _ = tx.update(g, tx.init(g), g)
    np.testing.assert_allclose(u, [3.4e38, -3.4e38, 3.0], rtol=1e-2)


def test_an_infinite_gradient_shows_in_later_updates_of_grokfast() -> None:
    tx, g = gf.grokfast(), jnp.ones(2)
    _, state = tx.update(jnp.asarray([jnp.inf, 1.0]), tx.init(g), g)
    u, _ = tx.update(g, state, g)
    np.testing.assert_array_equal(np.isfinite(u), [False, True])


def test_apollo_steps_alike_for_gradients_of_every_size() -> None:
    tx, g = gf.scale_by_apollo(2), np.random.default_rng(0).uniform(0.5, 1, (4, 6)).astype(np.float32)
    usual, huge = (tx.update(g * size, tx.init(jnp.zeros((4, 6))))[0] for size in (1.0, np.float32(3.4e38)))
    np.testing.assert_allclose(huge, usual, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: gf.sgd(0.1, dampening=0.5), "sgd: argument 'momentum' must be a number with dampening"),
        (lambda: gf.nadam(0.1, nesterov=False, momentum_decay=0.004), "nadam: argument 'momentum_decay'"),
        (lambda: gf.nadamw(0.1, nesterov=False, momentum_decay=0.004), "nadamw: argument 'momentum_decay'"),
        (lambda: gf.scale_by_lion(mode="soft"), "scale_by_lion: argument 'mode' must be one of"),
        (lambda: gf.sgd(float("nan")), "sgd: argument 'learning_rate' must be a number >= 0"),
        (lambda: gf.adamax(0.1, b1=1.0), r"adamax: argument 'b1' must be a number in \[0, 1\)"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()

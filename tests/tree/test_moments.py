import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradflow import tree
from gradflow.tree._moments import one_minus_power

G = {"a": jnp.array([0.5, -2.0]), "b": [jnp.array(3.0), None], "e": jnp.zeros((0,))}
M = {"a": jnp.array([0.1, 0.4]), "b": [jnp.array(-1.5), None], "e": jnp.zeros((0,))}


def in64(f, *trees):
    return jax.tree.map(lambda *xs: f(*(np.asarray(x, np.float64) for x in xs)), *trees)


def assert_close(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(np.asarray(g), w, rtol=1e-6), got, wanted)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 2.0])
def test_update_moment(order, jit):
    wanted = in64(lambda g, m: 0.1 * g**order + 0.9 * m, G, M)

    def f(g, m, b):
        return tree.update_moment(g, m, b, order)

    assert_close((jax.jit(f) if jit else f)(G, M, 0.9), wanted)


@pytest.mark.parametrize("order", [1, 2, 3, 1.5])
def test_update_moment_per_elem_norm(order):
    wanted = in64(lambda g, m: 0.1 * np.abs(g) ** order + 0.9 * m, G, M)
    assert_close(tree.update_moment_per_elem_norm(G, M, 0.9, order), wanted)
    z = tree.update_moment_per_elem_norm([jnp.array([3 + 4j])], [jnp.zeros(1)], 0.5, order)
    np.testing.assert_allclose(z[0], [0.5 * 5.0**order], rtol=1e-6)
    assert z[0].dtype == jnp.float32


def test_update_infinity_moment():
    wanted = in64(lambda g, m: np.maximum(np.abs(g) + 1e-3, 0.9 * m), G, M)
    assert_close(tree.update_infinity_moment(G, M, 0.9, 1e-3), wanted)


UPDATES = [
    lambda g, m: tree.update_moment(g, m, 0.9, 1),
    lambda g, m: tree.update_moment_per_elem_norm(g, m, 0.9, 2),
    lambda g, m: tree.update_infinity_moment(g, m, 0.9, 1e-8),
]


@pytest.mark.parametrize("update", UPDATES)
def test_a_state_never_changes_its_type(update):
    m = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2), "absent": None, "kept": jnp.ones(3)}
    g = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.float16), "absent": jnp.ones(1), "kept": None}
    new = update(g, m)
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, m)
    np.testing.assert_array_equal(new["kept"], m["kept"])
    with pytest.raises(ValueError, match=r"the leaves at 'b' must have equal shapes; got \(2,\) and \(\)"):
        update(g, m | {"b": jnp.ones(())})


def test_float16_squares_do_not_overflow():
    new = tree.update_moment([jnp.full(1, 300.0, jnp.float16)], [jnp.zeros(1)], 0.9, 2)
    np.testing.assert_allclose(new[0], [9000.0], rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.9, 0.999, 0.99999, 0.9999999])
@pytest.mark.parametrize("count", [1, 2, 10, 1000, 2**31 - 1])
def test_bias_correction_keeps_its_digits(decay, count):
    b = np.float64(np.float32(decay))
    wanted = 3.0 / -np.expm1(count * np.log(b)) if b else 3.0
    for given in (decay, jnp.float32(decay)):
        result = tree.bias_correction({"m": jnp.full(1, 3.0)}, given, jnp.int32(count))
        np.testing.assert_allclose(result["m"], [wanted], rtol=4e-7)


def test_bias_correction_undoes_the_average_of_a_constant():
    m = [jnp.zeros(1, jnp.bfloat16), jnp.zeros(1)]
    for t in range(1, 4):
        m = tree.update_moment([jnp.full(1, 2.0, jnp.bfloat16), jnp.full(1, 2.0)], m, 0.999, 1)
        corrected = tree.bias_correction(m, 0.999, t)
        assert corrected[0].dtype == jnp.bfloat16
        np.testing.assert_allclose(corrected[1], [2.0], rtol=1e-6)


def test_at_count_zero_there_is_nothing_to_correct():
    np.testing.assert_array_equal(tree.bias_correction(jnp.array([0.0, 2.0]), 0.9, 0), [0.0, 2.0])


@pytest.mark.parametrize("decay", [0.0, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_gradient_with_respect_to_the_decay(decay, count):
    def f(b):
        return tree.bias_correction(jnp.ones(()), b, count)

    b, c = float(np.float32(decay)), max(count, 1)
    wanted = c * b ** (c - 1) / (1 - b**c) ** 2 if count else 0.0
    np.testing.assert_allclose(jax.grad(f)(decay), wanted, rtol=2e-5)
    for update in (
        lambda b: tree.sum(tree.update_moment(jnp.zeros(2), jnp.zeros(2), b, 2)),
        lambda b: tree.sum(tree.update_moment_per_elem_norm(jnp.zeros(2), jnp.zeros(2), b, 2)),
    ):
        assert np.isfinite(jax.grad(update)(decay))


def test_second_moment_has_a_finite_gradient_at_zero():
    for z in (jnp.zeros(2), jnp.zeros(2, jnp.complex64)):
        g = jax.grad(lambda z: tree.sum(tree.update_moment_per_elem_norm(z, jnp.zeros(2), 0.9, 2)))
        assert (g(z) == 0).all()


def test_mistakes():
    with pytest.raises(TypeError, match=r"argument 'order' must be a real scalar; got '2'"):
        tree.update_moment(G, M, 0.9, "2")
    with pytest.raises(ValueError, match=r"'decay' must be a real scalar in \[0, 1\]; got shape \(2,\)"):
        tree.update_moment(G, M, jnp.ones(2), 2)
    with pytest.raises(TypeError, match=r"the leaf at 'a' must be an inexact moment.*got int32"):
        tree.update_moment({"a": jnp.ones(1)}, {"a": jnp.array([1])}, 0.9, 1)
    with pytest.raises(TypeError, match=r"the leaf at 'a' must be a complex moment.*got float32"):
        tree.update_moment({"a": jnp.array([1j])}, {"a": jnp.ones(1)}, 0.9, 1)
    with pytest.raises(TypeError, match=r"the leaf at 'b' must be an inexact moment.*got int32"):
        tree.bias_correction({"a": None, "b": jnp.array([1])}, 0.9, 1)


@pytest.mark.parametrize(("count", "wanted"), [(0, 0.0), (1, 1.0), (2, 0.0), (7, 0.0)])
def test_one_minus_power_has_its_derivative_where_the_decay_is_zero(count, wanted):
    """d/dc (1 - (1 - c)^t) = t (1 - c)^(t - 1), which at c = 1 is 1 for t = 1 and 0 for other t."""
    slope = jax.grad(lambda c: one_minus_power(c, jnp.asarray(count)))(1.0)
    np.testing.assert_array_equal(slope, wanted)


def test_one_minus_power_has_second_derivatives_through_a_loop():
    """d2/dc2 of the sum of 1 - (1 - c)^t for t = 1 to 3 is -2 - 6 (1 - c)."""

    def total(c):
        step = lambda carry, count: (carry + one_minus_power(c, count), None)  # noqa: E731
        return jax.lax.scan(step, jnp.zeros(()), jnp.arange(1, 4))[0]

    for second in (jax.hessian(total), jax.grad(jax.grad(total))):
        np.testing.assert_allclose(jax.jit(second)(jnp.float32(0.25)), -6.5, rtol=1e-6)


def test_a_compiled_one_minus_power_of_a_weak_type_has_a_type_of_its_own():
    share = jax.ShapeDtypeStruct((), jnp.float32, weak_type=True)
    assert not jax.eval_shape(one_minus_power, share, jnp.asarray(2)).weak_type

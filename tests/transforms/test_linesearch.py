"""Line searches: the conditions that they promise, and losses that are no numbers in places."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf


def searched(tx: Any, f: Any, x: Any, u: Any, state: Any = None, **extra: Any) -> tuple[Any, Any]:
    """The point that a search along `u` chooses, and its state."""
    value, grad = jax.value_and_grad(f)(x, **extra)
    state = tx.init(x) if state is None else state
    updates, state = tx.update(u, state, x, value=value, grad=grad, value_fn=f, **extra)
    return gf.apply_updates(x, updates), state


def wave(x: jax.Array, weights: jax.Array, pace: jax.Array) -> jax.Array:
    """A random function of one variable with many minima, bounded from below."""
    return jnp.sum(weights * jnp.sin(pace * x + weights)) + 0.05 * jnp.square(x)


def test_strong_wolfe_conditions_hold_at_the_step() -> None:
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        weights = jnp.asarray(rng.normal(size=(300, 4)))
        pace = jnp.asarray(rng.uniform(0.2, 3, size=(300, 4)))
        begin = jnp.asarray(rng.normal(size=300) * 3)
        length = jnp.asarray(10 ** rng.uniform(-3, 2, size=300))  # first trials far too short and too long
        c1, c2 = 1e-4, 0.3
        tx = gf.scale_by_zoom_linesearch(40, curv_rtol=c2, approx_dec_rtol=None, stepsize_precision=0.0)
        slope_of = jax.grad(wave)

        def one(weights: Any, pace: Any, x: Any, length: Any) -> Any:
            g = slope_of(x, weights, pace)
            u = -jnp.sign(g) * length
            to, state = searched(tx, wave, x, u, weights=weights, pace=pace)
            start = wave(x, weights, pace)
            decrease = wave(to, weights, pace) - start - c1 * state.learning_rate * g * u
            curvature = jnp.abs(slope_of(to, weights, pace) * u) - c2 * jnp.abs(g * u)
            return decrease, curvature, state, wave(to, weights, pace), slope_of(to, weights, pace)

        decrease, curvature, state, value, slope = jax.jit(jax.vmap(one))(weights, pace, begin, length)
        assert np.max(decrease) <= 1e-12
        assert np.max(curvature) <= 1e-12
        assert np.all(state.info.decrease_error == 0) & np.all(state.info.curvature_error == 0)
        np.testing.assert_allclose(state.value, value, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(state.grad, slope, rtol=1e-9, atol=1e-9)
        assert np.mean(state.info.num_linesearch_steps) < 6


def test_backtracking_shrinks_until_the_loss_is_low_enough() -> None:
    """Against the loop of Nocedal & Wright 2006, algorithm 3.1, in plain Python."""
    f = lambda x: 3 * x * x  # noqa: E731
    x, u, first, shrink = 1.0, -6.0, 1.0, 0.5
    rate, evaluations = first, 1
    while f(x + rate * u) > f(x) + 0.1 * rate * 6 * x * u:
        rate, evaluations = rate * shrink, evaluations + 1
    tx = gf.scale_by_backtracking_linesearch(20, 0.1, shrink, 2.0)
    to, state = searched(tx, lambda x: 3 * jnp.square(x), jnp.float32(x), jnp.float32(u))
    assert state.learning_rate == rate
    assert state.info.num_linesearch_steps == evaluations
    assert state.grad is None
    np.testing.assert_allclose([to, state.value], [x + rate * u, f(x + rate * u)], rtol=1e-6)
    # The next search begins at twice the step, and not above the limit.
    _, again = searched(tx, lambda x: 1e-3 * jnp.square(x), to, jnp.float32(0.1), state)
    assert again.learning_rate == 2 * rate
    endless = gf.scale_by_backtracking_linesearch(20, increase_factor=float("inf"), max_learning_rate=0.75)
    _, again = searched(endless, lambda x: 1e-3 * jnp.square(x), to, jnp.float32(0.1), state)
    assert again.learning_rate == 0.75


SEARCHES = {
    "zoom": lambda: gf.scale_by_zoom_linesearch(30),
    "backtracking": lambda: gf.scale_by_backtracking_linesearch(60, store_grad=True),
}


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("outside", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_loss_that_is_no_number_beyond_a_border(search: str, outside: float) -> None:
    f = lambda x: jnp.where(x < 1.5, -jnp.log1p(jnp.abs(x)), outside)  # noqa: E731
    x = jnp.float32(0.5)
    to, state = searched(SEARCHES[search](), f, x, jnp.float32(1000.0))
    assert 0.5 < to < 1.5
    assert np.isfinite(state.value) & np.isfinite(state.grad)
    assert state.value < f(x)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("loss", [lambda x: jnp.abs(x), lambda x: jnp.where(x == 0, 0.0, jnp.nan)])
def test_where_no_step_helps_none_is_taken(search: str, loss: Any) -> None:
    tx = SEARCHES[search]()
    x, u = jnp.float32(0.0), jnp.float32(1.0)
    updates, state = tx.update(u, tx.init(x), x, value=0.0, grad=jnp.float32(-1.0), value_fn=loss)
    assert updates == 0
    assert state.learning_rate > 0
    assert (state.value, state.grad) == (0, -1)
    assert state.info.decrease_error >= 0
    # The next search goes on from the last trial.
    to, _ = searched(tx, lambda x: jnp.square(x - 1), x, u, state)
    assert to > 0


def test_the_lowest_point_seen_is_taken_when_steps_run_out() -> None:
    f = lambda x: jnp.square(x - 1.0)  # noqa: E731
    tx = gf.scale_by_zoom_linesearch(3, curv_rtol=0.0, tol=0.0)
    to, state = searched(tx, f, jnp.float32(0.0), jnp.float32(1e-3))
    assert state.info.num_linesearch_steps == 3
    assert state.info.curvature_error > 0
    np.testing.assert_allclose([state.value, f(to)], [f(to), state.value], rtol=1e-6)
    assert state.value < f(0.0)


def test_a_limit_holds_and_is_no_failure() -> None:
    tx = gf.scale_by_zoom_linesearch(20, max_learning_rate=4.0)
    _, state = searched(tx, lambda x: jnp.square(x - 1), jnp.float32(0.0), jnp.float32(1e-3))
    assert state.learning_rate == 4
    assert state.info.decrease_error == 0 < state.info.curvature_error


def test_where_losses_are_roundings_slopes_decide() -> None:
    """A decrease of 1e-12 cannot be seen beside a loss of 1e6 in float32, its slope can."""
    f = lambda x: 1e6 + 1e-6 * jnp.square(x)  # noqa: E731
    for approximate, moves in ((1e-6, True), (None, False)):
        tx = gf.scale_by_zoom_linesearch(20, approx_dec_rtol=approximate, curv_rtol=0.1)
        to, _ = searched(tx, f, jnp.float32(1e-3), jnp.float32(-1e-2))
        assert (abs(to) < 1e-4) == moves


def test_the_function_gets_the_extra_arguments_that_it_names() -> None:
    def f(x: jax.Array, batch: jax.Array, *, weight: Any = 1.0) -> jax.Array:
        return weight * jnp.sum(jnp.square(x - batch))

    x, u, batch = jnp.zeros((2,)), jnp.ones((2,)), jnp.asarray([1.0, 1.0])
    for tx in (SEARCHES["zoom"](), gf.chain(gf.identity(), SEARCHES["backtracking"]())):
        value, grad = jax.value_and_grad(f)(x, batch, weight=2.0)
        _, state = tx.update(
            u, tx.init(x), x, value=value, grad=grad, value_fn=f, batch=batch, weight=2.0, epoch=3
        )
        assert gf.tree.get(state, "num_linesearch_steps") == 1
        assert gf.tree.get(state, "value") == 0


def test_mistakes_are_named() -> None:
    x = jnp.ones((2,))
    tx = gf.scale_by_zoom_linesearch(3)
    good: dict[str, Any] = {"value": 1.0, "grad": x, "value_fn": jnp.sum}
    with pytest.raises(TypeError, match=r"scale_by_zoom_linesearch.*'value_fn'"):
        tx.update(x, tx.init(x), x, value=1.0, grad=x)
    with pytest.raises(TypeError, match="'value_fn' must be a function"):
        tx.update(x, tx.init(x), x, **{**good, "value_fn": 3.0})
    with pytest.raises(ValueError, match=r"'value_fn' returns.*float32\[2\]"):
        tx.update(x, tx.init(x), x, **{**good, "value_fn": lambda x: x})
    with pytest.raises(ValueError, match=r"'value' \(the loss\) must be a real scalar"):
        tx.update(x, tx.init(x), x, **{**good, "value": x})
    with pytest.raises(ValueError, match="'keep' or 'one'"):
        gf.scale_by_zoom_linesearch(3, initial_guess_strategy="two")
    with pytest.raises(ValueError, match="increase_factor"):
        gf.scale_by_backtracking_linesearch(3, increase_factor=0.0)
    with pytest.raises(ValueError, match="store_grad"):
        gf.value_and_grad_from_state(jnp.sum)(x, state=gf.scale_by_backtracking_linesearch(3).init(x))


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


@pytest.mark.parametrize(
    "search",
    [
        lambda: gf.scale_by_backtracking_linesearch(15),
        lambda: gf.scale_by_zoom_linesearch(2),
        lambda: gf.scale_by_zoom_linesearch(3),
    ],
)
def test_a_search_whose_trials_all_fail_goes_on_from_the_last_one(search: Any) -> None:
    """From zeros, backtracking by 15 trials ends at 0.044, where the loss of Rosenbrock-4 is still higher."""
    tx = gf.chain(gf.sgd(1.0), search())

    def step(carry: Any, _: Any) -> Any:
        x, state = carry
        value, grad = jax.value_and_grad(rosenbrock)(x)
        u, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=rosenbrock)
        return (x + u, state), value

    x = jnp.zeros(4)
    (x, _), values = jax.jit(lambda c: jax.lax.scan(step, c, length=12))((x, tx.init(x)))
    assert values[0] == 3
    assert np.all(np.diff(values) <= 0)
    assert rosenbrock(x) < 2.7


def test_a_first_trial_may_be_shorter_than_the_last_step() -> None:
    f = lambda x: 1e-3 * jnp.square(x)  # noqa: E731
    tx = gf.scale_by_backtracking_linesearch(5, increase_factor=0.5)
    to, state = searched(tx, f, jnp.float32(1.0), jnp.float32(-0.1))
    assert state.learning_rate == 0.5
    _, state = searched(tx, f, to, jnp.float32(-0.1), state)
    assert state.learning_rate == 0.25


def test_infinity_is_no_limit() -> None:
    x, u = jnp.float32(0.0), jnp.float32(1e-3)
    f = lambda x: jnp.square(x - 1)  # noqa: E731
    _, plain = searched(gf.scale_by_zoom_linesearch(20), f, x, u)
    _, limited = searched(gf.scale_by_zoom_linesearch(20, max_learning_rate=float("inf")), f, x, u)
    assert plain.learning_rate == limited.learning_rate
    # Without a condition on the slope the first trial that decreases the loss is taken.
    _, first = searched(gf.scale_by_zoom_linesearch(5, curv_rtol=float("inf")), f, x, u)
    assert (first.learning_rate, first.info.num_linesearch_steps) == (1, 1)
    _, far = searched(
        gf.scale_by_backtracking_linesearch(5, max_learning_rate=float("inf"), increase_factor=8.0), f, x, u
    )
    assert far.learning_rate == 8
    for growth in (1.5, float("inf")):
        tx = gf.scale_by_backtracking_linesearch(5, max_learning_rate=float("inf"), increase_factor=growth)
        to, state = searched(tx, f, x, u)
        assert np.isfinite(state.learning_rate) & (f(to) < 1)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_near_miss_of_the_functions_own_argument_is_refused(search: str) -> None:
    def f(x: jax.Array, weight: Any = 1.0) -> jax.Array:
        return weight * jnp.sum(jnp.square(x))

    x = jnp.ones(2)
    for tx in (SEARCHES[search](), gf.lbfgs(linesearch=SEARCHES[search]())):
        good: dict[str, Any] = {"value": f(x), "grad": 2 * x, "value_fn": f}
        with pytest.raises(TypeError, match=r"takes the extra argument 'weigth'\. Did you mean 'weight'"):
            tx.update(-2 * x, tx.init(x), x, **good, weigth=2.0)
        tx.update(-2 * x, tx.init(x), x, **good, weigth=2.0, weight=2.0)
        tx.update(-2 * x, tx.init(x), x, **good, epoch=2)


def test_value_and_gradient_come_from_the_state_once_they_are_there() -> None:
    tx = gf.chain(gf.scale(-1.0), gf.scale_by_zoom_linesearch(5))
    x = jnp.ones((2,))
    f = lambda x, a: jnp.sum(a * x * x)  # noqa: E731
    state = tx.init(x)
    value, grad = gf.value_and_grad_from_state(f)(x, 3.0, state=state)
    np.testing.assert_array_equal(value, 6)
    np.testing.assert_array_equal(grad, 6 * x)
    state = (state[0], state[1]._replace(value=jnp.float32(5), grad=x))
    value, grad = jax.jit(gf.value_and_grad_from_state(f))(x, 3.0, state=state)
    assert value == 5
    np.testing.assert_array_equal(grad, x)


def test_verbose_prints(capfd: pytest.CaptureFixture[str]) -> None:
    for tx in (
        gf.scale_by_zoom_linesearch(5, verbose=True),
        gf.scale_by_backtracking_linesearch(5, verbose=True),
    ):
        searched(tx, lambda x: jnp.square(x), jnp.float32(1.0), jnp.float32(-1.0))
        jax.effects_barrier()
        assert "evaluations" in capfd.readouterr().out

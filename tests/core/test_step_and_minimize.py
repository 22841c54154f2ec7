"""make_step and minimize, which drive any optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import gradflow as gf
from gradflow._training._minimize import minimize
from gradflow._training._step import make_step


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * jnp.square(x[1:] - jnp.square(x[:-1])) + jnp.square(1 - x[:-1]))


def regression(params: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(xs @ params["w"] + params["b"] - ys))


def problem() -> tuple[Any, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(32, 3)), jnp.float32)
    ys = jnp.asarray(rng.normal(size=32), jnp.float32)
    return {"w": jnp.zeros((3,)), "b": jnp.zeros(())}, xs, ys


@pytest.mark.parametrize(
    "tx",
    [
        gf.adam(0.1),
        gf.lbfgs(),
        gf.lbfgs(linesearch=gf.scale_by_backtracking_linesearch(20)),
        gf.polyak_sgd(f_min=0.8),
        gf.chain(gf.clip(1.0), gf.with_metrics(gf.lbfgs())),
        optax.lbfgs(),
        optax.sgd(0.05),
    ],
    ids=["adam", "lbfgs", "backtracking", "polyak", "metrics", "optax-lbfgs", "optax-sgd"],
)
def test_one_step_function_for_every_optimizer(tx: Any) -> None:
    params, xs, ys = problem()
    step = jax.jit(make_step(regression, tx), donate_argnums=(0, 1))
    state = jax.tree.map(lambda x: jnp.array(x, copy=True), tx.init(params))  # the peer's share buffers
    values = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(15):
            params, state, result = step(params, state, xs, ys)
            values.append(result.value)
    assert result.aux is None
    assert values[-1] < 0.97 * values[0]


def test_the_gradient_is_computed_once_and_goes_to_all() -> None:
    calls = []

    def loss(x: jax.Array, scale: jax.Array) -> tuple[jax.Array, str]:
        calls.append(1)
        return scale * jnp.sum(jnp.square(x)), "aux"

    heard = {}

    @gf.transformation
    def listener() -> Any:
        def update(
            updates: Any, state: Any, params: Any = None, *, value: Any, grad: Any, grad_fn: Any, key: Any
        ) -> Any:
            heard.update(value=value, grad=grad, other=grad_fn(2 * params, 0), key=key)
            return updates, state

        return gf.init_empty_state, update

    tx = gf.chain(gf.scale(-0.5), listener())
    x = jnp.asarray([1.0, 2.0])
    to, _, result = make_step(loss, tx, has_aux=True)(x, tx.init(x), jnp.float32(3.0), key=7)
    assert len(calls) == 2  # the gradient, and the one elsewhere that the stage asked for
    assert (result.value, result.aux, heard["value"], heard["key"]) == (15, "aux", 15, 7)
    np.testing.assert_allclose([heard["grad"], heard["other"], to], [6 * x, 12 * x, -2 * x])


def test_with_the_same_batch_no_evaluation_is_made_twice() -> None:
    evaluations = []

    def loss(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: evaluations.append(1))
        return rosenbrock(x)

    tx = gf.lbfgs()
    counts = {}
    for same in (False, True):
        evaluations.clear()
        step = jax.jit(make_step(loss, tx, same_batch=same))
        x, searched = jnp.zeros((4,)), 0
        state = tx.init(x)
        for _ in range(10):
            x, state, _ = step(x, state)
            searched += int(gf.tree.get(state, "num_linesearch_steps"))
        jax.effects_barrier()
        counts[same] = len(evaluations) - searched
    assert counts == {False: 10, True: 1}
    # What follows a search makes its values those of another point.
    follower = gf.chain(gf.lbfgs(), gf.scale(0.5))
    evaluations.clear()
    x = jnp.zeros((4,))
    step = make_step(loss, follower, same_batch=True)
    x, state, _ = step(x, follower.init(x))
    _, _, result = step(x, state)
    np.testing.assert_allclose(result.value, rosenbrock(x), rtol=1e-6)


def test_a_step_scans() -> None:
    params, xs, ys = problem()
    tx = gf.lbfgs()
    step = make_step(regression, tx, same_batch=True)

    def body(carry: Any, _: Any) -> Any:
        params, state, result = step(*carry, xs, ys)
        return (params, state), result

    _, results = jax.lax.scan(body, (params, tx.init(params)), length=12)
    design = np.column_stack([xs, np.ones(32)]).astype(np.float64)
    best = np.linalg.lstsq(design, np.asarray(ys, np.float64), rcond=None)[1] / 32
    np.testing.assert_allclose(results.value[-1], best[0], rtol=1e-5)


def test_complex_parameters_descend() -> None:
    step = make_step(lambda z: jnp.square(jnp.abs(z - (1 + 2j))), gf.sgd(0.25))
    z = jnp.complex64(0)
    state = gf.sgd(0.25).init(z)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(30):
            z, state, _ = step(z, state)
    np.testing.assert_allclose(z, 1 + 2j, rtol=1e-5)


def test_rosenbrock_in_no_more_evaluations_than_the_peer() -> None:
    with jax.enable_x64(True):
        begin = jnp.tile(jnp.asarray([-1.2, 1.0]), 10)
        result = minimize(rosenbrock, begin, tol=2e-7)
        assert result.converged
        assert jnp.linalg.norm(jax.grad(rosenbrock)(result.params)) < 1e-6
        assert result.evaluations <= 167
        np.testing.assert_allclose(result.params, 1.0, rtol=1e-6)
        np.testing.assert_allclose(result.value, rosenbrock(result.params), rtol=1e-9, atol=1e-20)


@pytest.mark.parametrize(
    "tx", [None, gf.adam(0.05), gf.lbfgs(linesearch=gf.scale_by_backtracking_linesearch(20))]
)
def test_evaluations_are_counted(tx: Any) -> None:
    evaluations = []

    def loss(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: evaluations.append(1))
        return rosenbrock(x)

    result = minimize(loss, jnp.zeros((2,)), tx, 20)
    jax.effects_barrier()
    assert result.evaluations == len(evaluations)
    np.testing.assert_allclose(
        result.gradient_norm, jnp.max(jnp.abs(jax.grad(rosenbrock)(result.params))), rtol=1e-3
    )


def test_it_works_under_jit_and_vmap_and_on_trees() -> None:
    def loss(p: Any, target: jax.Array) -> jax.Array:
        return jnp.sum(jnp.cosh(p["x"] - target)) + jnp.square(p["y"] - p["x"][0])

    targets = jnp.asarray([[0.0, 1.0], [2.0, -1.0], [5.0, 5.0]])
    params = {"x": jnp.zeros((2,)), "y": jnp.zeros(()), "absent": None}
    solve = lambda target: minimize(loss, params, args=(target,))  # noqa: E731
    result = jax.jit(jax.vmap(solve))(targets)
    assert np.all(result.converged)
    np.testing.assert_allclose(result.params["x"], targets, atol=1e-4)
    for i, target in enumerate(targets):
        alone = solve(target)
        assert alone.steps == result.steps[i]
        np.testing.assert_allclose(alone.params["x"], result.params["x"][i], atol=1e-5)


def test_it_stops_where_numbers_end() -> None:
    falls = lambda x: jnp.where(x > 3, jnp.nan, -x * x)  # noqa: E731
    result = minimize(falls, jnp.float32(1.0), gf.sgd(0.5))
    assert result.status == "not finite"
    assert not result.converged
    assert result.params == 2
    assert (result.value, result.gradient_norm, result.steps) == (-4, 4, 2)
    result = minimize(falls, jnp.float32(4.0))
    assert (bool(result.converged), int(result.steps)) == (False, 0)
    # Where nothing moves any more it does not go on until max_steps.
    stuck = minimize(lambda x: jnp.abs(x - 1), jnp.float32(0.0), max_steps=500)
    assert not stuck.converged
    assert stuck.status == "stalled at float32 precision", "a jump of the gradient is not rounding error"
    assert stuck.steps < 50
    np.testing.assert_allclose(stuck.params, 1.0, atol=1e-3)


def test_no_steps_and_a_point_that_is_a_minimum() -> None:
    result = minimize(rosenbrock, jnp.ones((3,)))
    assert (bool(result.converged), int(result.steps), int(result.evaluations)) == (True, 0, 1)
    assert minimize(rosenbrock, jnp.zeros((3,)), max_steps=0).steps == 0


@pytest.mark.parametrize("find", [minimize, gf.minimize_constrained])
def test_a_tree_without_numbers_is_its_own_minimum(find: Any) -> None:
    result = find(lambda _: jnp.asarray(2.0), {"absent": None})
    assert (result.status, float(result.value), int(result.steps)) == ("converged", 2.0, 0)
    assert result.params == {"absent": None}


def test_sharded_parameters_give_the_same_minimum() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    weight = jnp.linspace(1.0, 30.0, 16)
    loss = lambda x: jnp.sum(weight * jnp.cosh(x - 1))  # noqa: E731
    x = jax.device_put(jnp.zeros((16,)), NamedSharding(mesh, P("x")))
    result = minimize(loss, x, tol=1e-4)
    assert result.converged
    assert result.params.sharding.is_equivalent_to(x.sharding, 1)
    np.testing.assert_allclose(result.params, 1.0, atol=1e-4)


def _sum_of_squares(dtype: Any) -> Any:
    """200 rows, of which the residuals cannot vanish: the value is about 190, and rounds."""
    random = np.random.default_rng(0)
    rows, noise = random.normal(size=(200, 10)), random.normal(size=200)
    x, y = jnp.asarray(rows, dtype), jnp.asarray(rows @ random.normal(size=10) + noise, dtype)
    return (lambda w: jnp.sum(jnp.square(x @ w - y))), np.linalg.lstsq(x, y)[0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_stopping_rule_knows_the_dtype(dtype: Any) -> None:
    with jax.enable_x64(dtype == "float64"):
        result = minimize(rosenbrock, jnp.zeros(20, dtype))
        assert result.status == "converged"
        assert result.value < 2e-12
        assert result.steps < 130
        # A gradient above `tol` is accepted only as rounding error.
        assert result.gradient_norm <= (1e-5 if dtype == "float64" else 3e-4)

        loss, best = _sum_of_squares(dtype)
        result = minimize(loss, jnp.zeros(10, dtype))
        assert (result.status, bool(result.converged)) == ("converged", True)
        assert result.steps < 30
        np.testing.assert_allclose(result.params, best, atol=1e-5 if dtype == "float32" else 1e-7)
        assert str(result).startswith(f"converged after {result.steps} steps")


def test_limits_kept_on_a_device_come_from_no_trace_and_fit_others() -> None:
    """The first solve is inside a trace, though it has concrete arguments; the last one is elsewhere."""
    start, limits = jnp.ones(2), {"max_steps": 1234, "tol": 0.123}

    def find(x: Any) -> Any:
        return minimize(lambda x: jnp.sum(x**2), x, **limits)

    with jax.checking_leaks():
        inside = jax.jit(lambda x: x + find(start).value)(0.0)
    for x in (start, jax.device_put(start, jax.devices()[3])):
        found = find(x)
        assert found.params.devices() == x.devices()
        assert found.value == inside
    with jax.enable_x64(True):
        assert find(jnp.ones(2, np.float64)).value.dtype == np.float64


def test_how_it_ended_is_text_for_many_too() -> None:
    many = jax.vmap(lambda x: minimize(rosenbrock, x, gf.sgd(1e-3), max_steps=1))(jnp.eye(2) + 0.5)
    assert list(many.status) == ["max_steps", "max_steps"]


def test_a_flat_value_is_not_convergence_while_the_gradient_is_large() -> None:
    """The offset hides the steps of a small rate in float32, but the gradient shows the way."""
    loss = lambda x: jnp.sum(jnp.square(x - 1)) + 1e6  # noqa: E731
    result = minimize(loss, jnp.zeros(4), gf.sgd(1e-2), max_steps=2000)
    assert result.status == "converged"
    np.testing.assert_allclose(result.params, 1.0, atol=1e-4)


def test_mistakes_are_named() -> None:
    with pytest.raises(TypeError, match="'loss_fn'"):
        minimize(3.0, jnp.zeros(()))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="It is a factory"):
        minimize(rosenbrock, jnp.zeros((2,)), gf.adam)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'max_steps'"):
        minimize(rosenbrock, jnp.zeros((2,)), max_steps=-1)
    with pytest.raises(ValueError, match="'tol'"):
        minimize(rosenbrock, jnp.zeros((2,)), tol=-1.0)
    with pytest.raises(ValueError, match="'same_batch'"):
        make_step(rosenbrock, gf.lbfgs(), has_aux=True, same_batch=True)

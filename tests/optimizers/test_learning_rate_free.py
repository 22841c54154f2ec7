"""Rules that find their step by themselves, against their papers' equations in NumPy and float64."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow._calls._extra_arguments import loss_value

STEPS = 25
# Numbers that float32 has, in which L-DoG keeps where it started.
START = {"W": np.array([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.25]]), "b": np.array([0.375, -0.75])}
CURVATURE = {"W": np.array([[1.0, 0.3], [2.0, 0.5], [0.1, 1.5]]), "b": np.array([0.7, 4.0])}
SIZE = 8

# A rule gets the parameters, and is sent (gradient, loss) for each next ones; all as one vector.
Rule = Callable[[np.ndarray], Iterator[np.ndarray]]


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(tree[name], np.float64).ravel() for name in ("W", "b")])


def loss_and_gradient(x: np.ndarray, t: int) -> tuple[float, np.ndarray]:
    """A quadratic with noise in the gradient; at one step the gradient is 0."""
    noise = np.random.default_rng(t).normal(size=SIZE)
    a = flat(CURVATURE)
    return 0.5 * float(a @ x**2) + 0.25, (a * x + 0.3 * noise) * (t != 9)


def sps(positive: bool) -> Rule:
    def rule(x: np.ndarray) -> Any:
        while True:
            g, value = yield x
            gap = max(value - 1.0, 0) if positive else value - 1.0
            step = min(0.7, gap / (g @ g + 0.1)) if g @ g > 0 else 0.0
            x = x - 0.5 * step * g

    return rule


def momo(adapt: bool, decay: float) -> Rule:
    def rule(x: np.ndarray) -> Any:
        rate, beta, d, lb = 0.8, 0.9, None, 0.1
        while True:
            g, value = yield x
            if d is None:
                d, f, gamma = g, value, g @ x
            else:
                d, f, gamma = (beta * old + 0.1 * new for old, new in ((d, g), (f, value), (gamma, g @ x)))
            shrink = 1 + rate * decay
            if adapt:
                cap = shrink * (f - gamma) + d @ x
                if cap < shrink * lb:
                    lb = max(cap / (2 * shrink), 0.1)
            step = min(rate, max(shrink * (f - gamma - lb) + d @ x, 0) / (d @ d))
            if adapt:
                lb = max(f + d @ x - gamma - step * (d @ d) / 2, 0.1)
            x = (x - step * d) / shrink

    return rule


def momo_adam(adapt: bool, decay: float) -> Rule:
    def rule(x: np.ndarray) -> Any:
        rate, lb, t = 0.3, 0.1, 0
        d = v = np.zeros(SIZE)
        f = gamma = 0.0
        while True:
            g, value = yield x
            t += 1
            d, f, gamma = (0.9 * old + 0.1 * new for old, new in ((d, g), (f, value), (gamma, g @ x)))
            v = 0.99 * v + 0.01 * g * g
            root, w, shrink = np.sqrt(v / (1 - 0.99**t)) + 1e-8, 1 - 0.9**t, 1 + rate * decay
            if adapt:
                cap = shrink * (f - gamma) + d @ x
                if cap < shrink * w * lb:
                    lb = max(cap / (2 * shrink * w), 0.1)
            square = d @ (d / root)
            step = min(rate / w, max(shrink * (f - gamma - w * lb) + d @ x, 0) / square)
            if adapt:
                lb = max((f + d @ x - gamma - step * square / 2) / w, 0.1)
            x = (x - step * d / root) / shrink

    return rule


def dog(first: Callable[[np.ndarray], float], step: float | None = None, decay: float = 0.0) -> Rule:
    def rule(x: np.ndarray) -> Any:
        x0, dist, total, override = x, first(x), 0.0, step
        while True:
            g, _ = yield x
            g = g + decay * x
            dist, total = max(dist, np.linalg.norm(x - x0)), total + g @ g
            eta = dist / np.sqrt(total + 1e-8) if override is None else override
            override = None
            x = x - eta * g

    return rule


def layerwise_dog(x: np.ndarray) -> Any:
    layers = [dog(lambda p: 1e-3 * (1 + np.linalg.norm(p)))(part) for part in (x[:6], x[6:])]
    x = np.concatenate([next(layer) for layer in layers])
    while True:
        g, value = yield x
        sent = zip(layers, (g[:6], g[6:]), strict=True)
        x = np.concatenate([layer.send((part, value)) for layer, part in sent])


def dowg(x: np.ndarray) -> Any:
    x0, sq_dist, total = x, 1e-3, 0.0
    while True:
        g, _ = yield x
        sq_dist = max(sq_dist, (x - x0) @ (x - x0))
        total = total + sq_dist * (g @ g)
        x = x - sq_dist / (np.sqrt(total) + 1e-4) * g


def cocob(x: np.ndarray) -> Any:
    x0, theta, total, reward = x, np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    scale, alpha = np.full(SIZE, 1e-8), 3.0
    while True:
        g, _ = yield x
        g = g + 0.1 * x
        scale, total = np.maximum(scale, abs(g)), total + abs(g)
        reward, theta = np.maximum(reward - g * (x - x0), 0), theta - g
        x = x0 + theta / (scale * np.maximum(total + scale, alpha * scale)) * (scale + reward)


def prodigy(x: np.ndarray) -> Any:
    """Mishchenko and Defazio's Algorithm 4; after its first growth the estimate grows by a tenth at most."""
    x0, m, v, total = x, np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    d0, r, b1, b2, t = 1e-3, 0.0, 0.9, 0.999, 0
    d = d0
    while True:
        g, _ = yield x
        t += 1
        rate = d * np.sqrt(1 - b2**t) / (1 - b1**t)
        m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * d**2 * g * g
        r = np.sqrt(b2) * r + d / d0 * rate * (g @ (x0 - x))
        total = np.sqrt(b2) * total + d / d0 * rate * g
        known = np.abs(total).sum()
        quotient = r / known if known else d
        d = max(d, quotient if d == d0 else min(quotient, 1.1 * d))
        x = x - rate * m / (np.sqrt(v) + d * 1e-8)


PAIRS: dict[str, tuple[Any, Rule]] = {
    "sps": (lambda: gf.polyak_sgd(0.7, 0.5, 1.0, 0.1), sps(False)),
    "sps+": (lambda: gf.polyak_sgd(0.7, 0.5, 1.0, 0.1, "sps+"), sps(True)),
    "momo": (lambda: gf.momo(0.8, lower_bound=0.1), momo(False, 0.0)),
    "momo-adapted": (lambda: gf.momo(0.8, 0.9, 0.1, 0.2, True), momo(True, 0.2)),
    "momo_adam": (lambda: gf.momo_adam(0.3, b2=0.99, lower_bound=0.1), momo_adam(False, 0.0)),
    "momo_adam-adapted": (
        lambda: gf.momo_adam(
            0.3, b2=0.99, lower_bound=0.1, weight_decay=0.2, adapt_lower_bound=True
        ),
        momo_adam(True, 0.2),
    ),
    "dog": (lambda: gf.dog(), dog(lambda x: 1e-6 * (1 + np.linalg.norm(x)))),
    "dog-distance": (
        lambda: gf.dog(init_step=("distance", 0.1), weight_decay=0.2), dog(lambda x: 0.1, decay=0.2)
    ),
    "dog-learning_rate": (lambda: gf.dog(init_step=("learning_rate", 0.01)), dog(lambda x: 0.0, 0.01)),
    "l-dog": (lambda: gf.scale_by_distance_over_gradients(1e-3, global_scale=-1.0), layerwise_dog),
    "dowg": (lambda: gf.dowg(init_estim_sq_dist=1e-3), dowg),
    "cocob": (lambda: gf.cocob(alpha=3.0, weight_decay=0.1), cocob),
    "prodigy-limited": (lambda: gf.prodigy(estim_lr0=1e-3, growth_rate=1.1), prodigy),
}  # fmt: skip


@pytest.mark.parametrize("case", list(PAIRS))
def test_equations(case: str) -> None:
    build, rule = PAIRS[case]
    with jax.enable_x64(True):
        tx = build()
        params = jax.tree.map(jnp.asarray, START)
        state = tx.init(params)
        expected: Any = rule(flat(START))
        x = next(expected)
        takes = tx.update.stage.takes

        def step(grads: Any, state: Any, params: Any, value: Any) -> Any:
            updates, state = tx.update(grads, state, params, **({"value": value} if takes else {}))
            return gf.apply_updates(params, updates), state

        compiled = jax.jit(step)
        for t in range(STEPS):
            value, g = loss_and_gradient(x, t)
            x = expected.send((g, value))
            grads = {"W": jnp.asarray(g[:6].reshape(3, 2)), "b": jnp.asarray(g[6:])}
            params, state = compiled(grads, state, params, jnp.asarray(value))
            np.testing.assert_allclose(flat(params), x, 1e-11, 1e-11, err_msg=f"step {t}")
    assert np.linalg.norm(x - flat(START)) > 1e-5


def _steps(tx: Any, params: Any, grads: list[Any], **extra: Any) -> Any:
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params, **extra)
        params = gf.apply_updates(params, updates)
    return params, state


FREE = {
    "prodigy": gf.prodigy,
    "prodigy-official": lambda: gf.prodigy(use_bias_correction=False),
    "dadapt_adamw": gf.dadapt_adamw,
    "dadapt_adamw-official": lambda: gf.dadapt_adamw(use_bias_correction=False),
    "dog": gf.dog,
    "dog-learning_rate": lambda: gf.dog(init_step=("learning_rate", 1e-3)),
    "dowg": gf.dowg,
    "cocob": gf.cocob,
    "mechanize": lambda: gf.mechanize(gf.adam(1.0)),
}


def test_prodigy_grows_no_faster_than_its_limit() -> None:
    params = {"w": jnp.asarray([3.0, -2.0, 1.0])}

    def estimates(tx: Any) -> np.ndarray:
        state, found, at = tx.init(params), [], params
        update = jax.jit(tx.update)
        for _ in range(12):
            updates, state = update(at, state, at)
            at = gf.apply_updates(at, updates)
            found.append(float(gf.tree.get(state, "estim_lr")))
        return np.array(found)

    free, limited = (
        estimates(gf.prodigy(estim_lr0=1e-3)),
        estimates(gf.prodigy(estim_lr0=1e-3, growth_rate=1.1)),
    )
    first = np.argmax(limited > 1.001e-3)
    growth = limited[first + 1 :] / limited[first:-1]
    assert growth.max() <= 1.1 * (1 + 1e-6)
    assert (free[1:] / free[:-1]).max() > 1.2


@pytest.mark.parametrize("name", list(FREE))
@pytest.mark.parametrize("zeros", [0, 3])
def test_a_quadratic_is_solved_after_zero_gradients_too(name: str, zeros: int) -> None:
    """Gradients of 0 come first: an estimate that they ended could never grow."""
    tx = FREE[name]()
    params = {"w": jnp.asarray([3.0, -2.0, 1.0])}
    zero = jax.tree.map(jnp.zeros_like, params)
    params, state = _steps(tx, params, [zero] * zeros)
    np.testing.assert_array_equal(params["w"], [3.0, -2.0, 1.0])

    @jax.jit
    def train(params: Any, state: Any) -> Any:
        def body(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (gf.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), None, length=1000)[0]

    params, _ = train(params, state)
    assert float(gf.tree.norm(params)) < 1.0


@pytest.mark.parametrize("factory", [gf.prodigy, gf.dadapt_adamw])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_moments_that_small_dtypes_have_no_number_for_are_kept(factory: Any, dtype: Any) -> None:
    params = {"w": jnp.asarray([3.0, -2.0, 1.0], dtype)}
    tx = factory(use_bias_correction=False)
    _, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(state.exp_avg["w"], [3e-7, -2e-7, 1e-7], rtol=1e-5)
    assert state.estim_lr.dtype == state.grad_sum["w"].dtype == jnp.float32


def test_prodigy_decays_where_the_mask_says() -> None:
    params = {"w": jnp.asarray([3.0, -2.0]), "b": jnp.asarray([1.0])}
    nowhere, everywhere, somewhere = (
        _steps(gf.prodigy(estim_lr0=0.1, **options), params, [params])[0]
        for options in (
            {},
            {"weight_decay": 0.5},
            {"weight_decay": 0.5, "weight_decay_mask": {"w": True, "b": False}},
        )
    )
    np.testing.assert_array_equal(somewhere["w"], everywhere["w"])
    np.testing.assert_array_equal(somewhere["b"], nowhere["b"])
    assert not np.array_equal(nowhere["w"], everywhere["w"])
    assert not np.array_equal(nowhere["b"], everywhere["b"])


def test_polyak_scaling_scales_the_step_and_not_the_gradient_it_is_made_of() -> None:
    g = {"w": jnp.asarray([3.0, 4.0])}
    full, half = (
        gf.polyak_sgd(100.0, scaling).update(g, gf.polyak_sgd(100.0, scaling).init(g), g, value=5.0)[0]["w"]
        for scaling in (1.0, 0.5)
    )
    np.testing.assert_allclose(full, [-0.6, -0.8], rtol=1e-6)
    np.testing.assert_allclose(half, 0.5 * full, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-25, 1e-10, 1e10, 1e25])
def test_polyak_squares_nothing(size: float) -> None:
    g = {"w": jnp.asarray([3.0, 4.0]) * np.float32(size)}
    tx = gf.scale_by_polyak(max_learning_rate=1e38)
    value = np.float32(min(5.0 * size, 1e30))
    updates, _ = tx.update(g, tx.init(g), g, value=value)
    exact = min(float(value) / (25 * size**2), 1e38) * np.array([3.0, 4.0]) * size
    np.testing.assert_allclose(updates["w"], exact, rtol=1e-5)


def test_polyak_below_the_bound_climbs_or_stays() -> None:
    g = {"w": jnp.asarray([1.0, 0.0])}
    climbing, staying = (gf.polyak_sgd(f_min=2.0, variant=variant) for variant in ("sps", "sps+"))
    assert climbing.update(g, climbing.init(g), g, value=1.0)[0]["w"][0] == 1.0
    assert staying.update(g, staying.init(g), g, value=1.0)[0]["w"][0] == 0.0


def test_polyak_inside_shard_map_sums_over_the_axis() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    g = {"w": jnp.arange(16.0)}
    plain = gf.polyak_sgd()
    expected, _ = plain.update(g, plain.init(g), g, value=3.0)
    tx = gf.polyak_sgd(axis_name="x")
    spec = jax.sharding.PartitionSpec("x")

    def local(g: Any) -> Any:
        return tx.update(g, tx.init(g), g, value=3.0)[0]

    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec))(g)
    np.testing.assert_allclose(mapped["w"], expected["w"], rtol=1e-6)


@pytest.mark.parametrize("factory", [gf.momo, gf.momo_adam])
def test_momo_takes_a_loss_beyond_all_bounds_for_no_loss(factory: Any) -> None:
    params = {"w": jnp.asarray([3.0, -2.0])}
    tx = factory()
    state = tx.init(params)
    for value in (1.0, np.inf, np.nan, 1.0):
        updates, state = tx.update(params, state, params, value=np.float32(value))
        assert np.isfinite(updates["w"]).all()
    assert np.isfinite(state.barf)


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "betas of three": (lambda: gf.prodigy(betas=(0.9, 0.99, 0.999)), TypeError, "prodigy: argument 'betas'"),
    "beta of one": (lambda: gf.prodigy(betas=(0.9, 1.0)), ValueError, r"prodigy: argument 'betas\[1\]'"),
    "beta of one in d-adaptation": (
        lambda: gf.dadapt_adamw(betas=(1.0, 0.9)), ValueError, r"dadapt_adamw: argument 'betas\[0\]'"
    ),
    "a schedule as beta": (
        lambda: gf.dadapt_adamw(betas=(lambda count: 0.9, 0.9)), TypeError, "not a schedule"
    ),
    "no first estimate": (lambda: gf.prodigy(estim_lr0=0.0), ValueError, "estim_lr0"),
    "a number as init_step": (lambda: gf.dog(init_step=0.1), TypeError, "dog: argument 'init_step'"),
    "an unknown init_step": (lambda: gf.dog(init_step=("rate", 0.1)), ValueError, "'learning_rate'"),
    "a negative init_step": (lambda: gf.dog(init_step=("distance", -1.0)), ValueError, "> 0"),
    "a distance of 0": (lambda: gf.dowg(init_estim_sq_dist=0.0), ValueError, "init_estim_sq_dist"),
    "an unknown variant": (lambda: gf.polyak_sgd(variant="sps*"), ValueError, "'sps' or 'sps\\+'"),
    "a wrong mask": (
        lambda: gf.prodigy(weight_decay_mask={"v": True}).init({"w": jnp.ones(2)}), ValueError, "'w'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_are_named_when_built(mistake: str) -> None:
    build, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        build()


@pytest.mark.parametrize("factory", [gf.momo, gf.momo_adam, gf.polyak_sgd])
@pytest.mark.parametrize(
    ("extra", "kind"),
    [({}, TypeError), ({"value": None}, TypeError), ({"value": jnp.ones(3)}, ValueError)],
    ids=["missing", "None", "a vector"],
)
def test_a_wrong_loss_is_named(factory: Any, extra: Any, kind: type[Exception]) -> None:
    params = {"w": jnp.ones(2)}
    tx = factory()
    with pytest.raises(kind, match="extra argument 'value'"):
        tx.update(params, tx.init(params), params, **extra)


def test_a_loss_in_another_precision_is_taken_at_its_value() -> None:
    for value in (2, 2.0, np.float16(2), jnp.asarray(2, jnp.bfloat16), jnp.asarray(2)):
        assert float(loss_value(value).astype(np.float32)) == 2.0


def test_what_the_estimates_are_is_reported() -> None:
    params = {"w": jnp.asarray([3.0, -2.0])}
    for tx, names in (
        (gf.prodigy(), {"estim_lr", "learning_rate"}),
        (gf.dog(), {"scale_by_dog.distance", "scale_by_dog.step"}),
        (gf.momo(), {"step", "lower_bound"}),
    ):
        watched = gf.with_metrics(tx)
        extra = {"value": 1.0} if "value" in watched.update.stage.takes else {}
        _, state = watched.update(params, watched.init(params), params, **extra)
        assert names <= set(gf.metrics(state)), gf.metrics(state)

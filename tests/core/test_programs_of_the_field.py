"""What programs of the field do works: loose states, odd leaves, untracked axes, debugging modes."""

import functools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import compat

PARAMS = {"w": jnp.arange(1.0, 5.0), "b": jnp.ones(2)}
GRADS = {"w": jnp.full(4, 0.5), "b": jnp.full(2, -1.0)}


def run_on_devices(count: int, script: str) -> None:
    """Runs a script in a process with so many CPU devices."""
    start = f"import jax\njax.config.update('jax_num_cpu_devices', {count})\n"
    result = subprocess.run(
        [sys.executable, "-c", start + script], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("state", [None, (), {}, "theirs", {"step": jnp.ones(())}])
def test_a_stage_without_a_state_hands_back_what_it_is_given(state: Any) -> None:
    for tx in (gf.clip(0.75), gf.scale(0.5), gf.centralize(), gf.identity()):
        updates, same = tx.update(GRADS, state, PARAMS)
        assert same is state or jax.tree.structure(same) == jax.tree.structure(state)
        assert jax.tree.structure(updates) == jax.tree.structure(GRADS)
    with pytest.raises(TypeError, match="'state' must be a ScaleByAdamState"):
        gf.scale_by_adam().update(GRADS, state, PARAMS)


def test_python_numbers_in_a_state_are_arrays() -> None:
    tx = gf.scale_by_adam()
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS, state, PARAMS)
    loose = state._replace(count=1, mu={"w": np.asarray(state.mu["w"]), "b": state.mu["b"]})
    expected, tight = tx.update(GRADS, state, PARAMS)
    for update in (tx.update, jax.jit(tx.update)):
        updates, new = update(GRADS, loose, PARAMS)
        np.testing.assert_allclose(updates["w"], expected["w"], 1e-6)
        assert (new.count.dtype, int(new.count)) == (tight.count.dtype, 2)


def test_python_numbers_in_states_of_a_search_and_of_a_plateau_are_arrays() -> None:
    loss = functools.partial(gf.tree.norm, squared=True)
    given: dict[str, Any] = {"value": loss(PARAMS), "grad": GRADS, "value_fn": loss}
    for tx, name, number in (
        (gf.lbfgs(linesearch=gf.scale_by_zoom_linesearch(3)), "learning_rate", 0.25),
        (gf.reduce_on_plateau(), "scale", 0.5),
    ):
        loose, tight = (gf.tree.set(tx.init(PARAMS), **{name: kind(number)}) for kind in (float, jnp.float32))
        expected, found = (tx.update(GRADS, state, PARAMS, **given) for state in (tight, loose))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_messages_have_the_words_that_programs_look_for() -> None:
    shares, masks = jnp.full((1, 4, 3), 0.9), jnp.zeros((1, 4, 3))
    with pytest.raises(ValueError, match="valid probability distributions"):
        gf.losses.dice_loss(shares, masks, apply_softmax=False)
    with pytest.raises(ValueError, match="8 is not divisible by 3"):
        gf.microbatching.microbatch(jnp.sum, 0, 3)(jnp.ones((8, 2)))
    with pytest.raises(ValueError, match="Incompatible shapes for broadcasting"):
        compat.multi_normal(jnp.ones(3), jnp.ones(2))
    for count in (jnp.asarray(1j), jnp.asarray(True)):
        with pytest.raises(ValueError, match="safe_increment: argument 'count' must be a real number"):
            gf.safe_increment(count)


def test_leaves_that_are_not_trained_may_be_anything() -> None:
    model = {
        "w": jnp.ones((3, 3)),
        "act": jax.nn.relu,
        "rate": 0.5,
        "n": jnp.arange(3),
        "key": jax.random.key(0),
    }
    trained = {"w": model["w"], "act": None, "rate": None, "n": None, "key": None}
    grads = {**trained, "w": jnp.ones((3, 3))}
    for tx in (gf.adamw(0.1), gf.muon(0.1), gf.prodigy(), gf.dog(), gf.lamb(0.1), gf.schedule_free_sgd(0.1)):
        state = tx.init(trained)
        with_all, _ = tx.update(grads, state, model)
        alone, _ = tx.update(grads, state, trained)
        np.testing.assert_array_equal(with_all["w"], alone["w"])
    assert gf.sgd(0.1).init(model) is not None
    with pytest.raises(TypeError, match=r"at 'act'.*Functions of a module"):
        gf.adam(0.1).init(model)


def test_an_init_that_keeps_nothing_of_a_leaf_takes_any() -> None:
    params, grads = {"w": jnp.ones(3), "n": jnp.array(3)}, {"w": jnp.ones(3), "n": None}
    sgd = gf.sgd(0.1)
    for tx in (
        gf.apply_if_finite(sgd, 2),
        gf.tunable(sgd),
        gf.with_metrics(sgd),
        gf.inject_hyperparams(gf.sgd)(0.1),
    ):
        updates, _ = tx.update(grads, tx.init(params), params)
        np.testing.assert_allclose(updates["w"], -0.1, 1e-6)
    for tx, owner in (
        (gf.trace(0.9), "trace"),
        (gf.with_param_ema(sgd, 0.9), "with_param_ema"),
        (gf.MultiSteps(sgd, 2), "MultiSteps"),
    ):
        with pytest.raises(TypeError, match=rf"^{owner}: parameters must be .*; got int32\[\] at 'n'"):
            tx.init(params)


def test_float0_is_no_update() -> None:
    params = {"w": jnp.ones(3), "steps": jnp.arange(4)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(params)
    tx = gf.chain(gf.clip_by_global_norm(1.0), gf.masked(gf.adam(0.1), gf.paths("w")))
    for update in (tx.update, jax.jit(lambda *a: tx.update({**a[0], "steps": None}, *a[1:]))):
        given = grads if update is tx.update else {**grads, "steps": None}
        updates, _ = update(given, tx.init({**params, "steps": None}), {**params, "steps": None})
        assert updates["steps"] is None
        np.testing.assert_allclose(updates["w"], -0.1, 1e-4)
    assert gf.apply_updates(params, {"w": jnp.ones(3), "steps": None})["steps"] is params["steps"]
    assert gf.apply_updates(params, grads)["steps"] is params["steps"]
    assert gf.tree.norm(grads) == gf.tree.norm({"w": grads["w"]})


def test_integers_are_copied_into_averages() -> None:
    new, old = {"w": jnp.ones(2), "n": jnp.array(7)}, {"w": jnp.zeros(2), "n": jnp.array(3)}
    mixed = gf.incremental_update(new, old, 0.25)
    assert int(mixed["n"]) == 7
    assert mixed["n"].dtype == jnp.int32
    np.testing.assert_allclose(mixed["w"], 0.25)


def test_a_plain_pair_may_change_shapes() -> None:
    mean = gf.GradientTransformation(
        lambda params: (), lambda u, s, p=None: (jax.tree.map(lambda x: x.mean(0), u), s)
    )
    tx = gf.chain(mean, gf.adamw(0.1))
    per_example = jax.tree.map(lambda g: jnp.stack([g, 3 * g]), GRADS)
    updates, _ = tx.update(per_example, tx.init(PARAMS), PARAMS)
    expected, _ = gf.adamw(0.1).update(
        jax.tree.map(lambda g: 2 * g, GRADS), gf.adamw(0.1).init(PARAMS), PARAMS
    )
    np.testing.assert_allclose(updates["w"], expected["w"], 1e-6)
    half = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
    plain = gf.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s))
    updates, _ = gf.chain(plain, gf.scale(0.5)).update(half, ((), gf.EmptyState()), PARAMS)
    gf.chain(plain).update(GRADS, ((),), "no parameters")
    assert updates["w"].dtype == jnp.float32


@pytest.mark.parametrize("flag", [np.array(True), np.bool_(True), jnp.array(True), 1, 1.0, np.int32(1)])
def test_concrete_booleans_of_every_library_are_booleans(flag: Any) -> None:
    updates, _ = gf.freeze(flag).update(GRADS, gf.freeze(flag).init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["w"], 0)
    with pytest.raises(
        TypeError, match=r"freeze: leaves of a mask must be True or False; got bool.* at the root"
    ):
        jax.jit(lambda t: gf.freeze(t).init(PARAMS))(True)
    tx = gf.masked(gf.scale(2.0), lambda p: jax.tree.map(lambda x: jnp.array(x.ndim > 1), p))
    np.testing.assert_array_equal(tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]["w"], GRADS["w"])
    with pytest.raises(TypeError, match=r"leaves of a mask must be True or False; got bool.* at 'w'"):
        jax.jit(lambda t: gf.masked(gf.scale(2.0), {"w": t, "b": True}).init(PARAMS))(True)


def quadratic(p: Any) -> jax.Array:
    return 0.5 * jnp.sum(p["w"] ** 2) + 50.0 * jnp.sum(p["b"] ** 2)


@pytest.mark.parametrize("wrapper", ["partition", "masked", "selective_transform", "flatten"])
def test_a_search_sees_the_loss_along_its_own_part(wrapper: str) -> None:
    search = gf.chain(gf.sgd(1.0), gf.scale_by_backtracking_linesearch(30))
    tx = {
        "partition": lambda: gf.partition({"w": gf.sgd(0.1), "b": search}, {"w": "w", "b": "b"}),
        "masked": lambda: gf.masked(search, gf.paths("b"), elsewhere="zero"),
        "selective_transform": lambda: gf.selective_transform(search, freeze_mask="w"),
        "flatten": lambda: gf.flatten(search),
    }[wrapper]()
    params = {"w": jnp.ones(3), "b": jnp.full(2, 2.0)}
    state = tx.init(params)
    value, grad = jax.value_and_grad(quadratic)(params)
    updates, _ = jax.jit(lambda g, s, p: tx.update(g, s, p, value=value, grad=g, value_fn=quadratic))(
        grad, state, params
    )
    if wrapper != "flatten":
        # The step along b alone: backtracking halves from 1 until the sufficient decrease holds.
        rate = 1.0
        while 50 * np.sum((2 - rate * 200.0) ** 2 * np.ones(2)) > value - 1e-4 * rate * np.sum(
            np.square(grad["b"])
        ):
            rate *= 0.8
        assert quadratic({"w": params["w"], "b": params["b"] + updates["b"]}) < value
    else:
        assert quadratic(gf.apply_updates(params, updates)) < value


@pytest.mark.parametrize(
    "make", [lambda: gf.selective_transform(gf.lbfgs(), freeze_mask="b"), lambda: gf.flatten(gf.lbfgs())]
)
def test_a_solver_inside_a_wrapper_converges(make: Any) -> None:
    params = {"w": jnp.full(3, 2.0), "b": jnp.full(2, 2.0)}
    result = gf.minimize(quadratic, params, make(), max_steps=50)
    np.testing.assert_allclose(result.params["w"], 0, atol=1e-3)


def test_debugging_modes_reach_the_operation() -> None:
    tx = gf.adamw(0.1)
    with jax.disable_jit():
        tx.update(GRADS, tx.init(PARAMS), PARAMS)
        with pytest.raises(TypeError, match="'state' must be"):
            tx.update(GRADS, gf.sgd(0.1, momentum=0.9).init(PARAMS), PARAMS)
    assert tx.update.stage.whole is tx.update.stage.compiled  # the former name, which programs read
    assert not tx.update.stage.compiled.program.is_refused
    bad = {**GRADS, "w": jnp.full(4, jnp.nan)}
    with jax.debug_nans(True):
        for update in (tx.update, jax.jit(tx.update)):
            with pytest.raises(FloatingPointError):
                update(bad, tx.init(PARAMS), PARAMS)
    assert not tx.update.stage.compiled.program.is_refused


MAKERS = {
    "adam b1": lambda x: gf.scale_by_adam(b1=x),
    "adam b2": lambda x: gf.scale_by_adam(b2=x),
    "nesterov b1": lambda x: gf.scale_by_adam(b1=x, nesterov=True),
    "ema": lambda x: gf.ema(x),
    "adamax": lambda x: gf.scale_by_adamax(b1=x),
    "rms": lambda x: gf.scale_by_rms(x, bias_correction=True),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_derivative_at_a_decay_of_zero_is_the_limit_from_above(name: str) -> None:
    def total(x: Any) -> jax.Array:
        tx = MAKERS[name](x)
        state, result = tx.init(PARAMS), jnp.zeros(())
        for i in range(3):
            grads = jax.tree.map(lambda p, times=i + 1: jnp.cos(p * times), PARAMS)
            updates, state = tx.update(grads, state, PARAMS)
            result += jnp.sum(updates["w"] * PARAMS["w"])
        return result

    slope = jax.jit(jax.grad(total))
    np.testing.assert_allclose(slope(0.0), slope(1e-6), rtol=1e-3, atol=1e-3)


def test_powers_of_a_decay_have_exact_derivatives_of_every_order() -> None:
    from gradflow.tree._decay_power import one_minus_power

    with jax.enable_x64(True):
        for t in (0, 1, 2, 3, 7):
            f = functools.partial(lambda t, b: one_minus_power(1 - jnp.asarray(b), jnp.asarray(t)), t)
            for b in (0.0, 0.3, 0.9, 0.999999):
                assert np.isclose(f(b), 1 - b**t, rtol=1e-9, atol=0)
                first = -t * b ** (t - 1) if t else 0.0
                second = -t * (t - 1) * b ** (t - 2) if t > 1 else 0.0
                np.testing.assert_allclose(jax.grad(f)(b), first, rtol=1e-9)
                np.testing.assert_allclose(jax.grad(jax.grad(f))(b), second, rtol=1e-9)


def test_data_parallel_steps_where_axes_are_not_tracked() -> None:
    run_on_devices(
        2,
        """
import warnings; warnings.simplefilter("ignore")
import jax.numpy as jnp, numpy as np, gradflow as gf
from jax.sharding import PartitionSpec as P
params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32), "b": jnp.ones(4)}
grads = jax.tree.map(lambda p: jnp.stack([p, 3 * p]), params)
mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
for tx in (gf.chain(gf.clip_by_global_norm(0.1), gf.adamw(0.1)), gf.lamb(0.1), gf.muon(0.1),
           gf.adafactor(0.1), gf.apply_if_finite(gf.adam(0.1), 2), gf.lars(0.1), gf.prodigy()):
    def step(g, s, p):
        g = jax.lax.pmean(g, "d")
        return tx.update(g, s, p)[0]
    expected = tx.update(jax.tree.map(lambda p: 2 * p, params), tx.init(params), params)[0]
    both = lambda t: jax.tree.map(lambda x: jnp.stack([x, x]), t)
    mapped = jax.pmap(step, axis_name="d")(grads, both(tx.init(params)), both(params))
    np.testing.assert_allclose(mapped["w"][0], expected["w"], 1e-5, 1e-6)
    inner = lambda g, s, p: step(jax.tree.map(lambda x: x[0], g), s, p)
    sharded = jax.shard_map(inner, mesh=mesh, in_specs=(P("d"), P(), P()), out_specs=P(), check_vma=False)
    unchecked = jax.jit(sharded)(grads, tx.init(params), params)
    np.testing.assert_allclose(unchecked["w"], expected["w"], 1e-5, 1e-6)
""",
    )


def test_explicit_shardings_stay_with_parameters_and_state() -> None:
    run_on_devices(
        4,
        """
import jax.numpy as jnp, numpy as np, gradflow as gf
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
place = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, P(*axes)))
plain = {"w": jnp.arange(32.0).reshape(8, 4), "b": jnp.ones(3)}
for tx in (gf.adamw(0.1), gf.apply_if_finite(gf.sgd(0.1, momentum=0.9), 3),
           gf.chain(gf.clip_by_global_norm(1.0), gf.adam(0.1))):
    expected, _ = tx.update(plain, tx.init(plain), plain)
    params = {"w": place(plain["w"], "d", None), "b": place(plain["b"])}
    for grads in (params, {"w": place(plain["w"], None, "d"), "b": place(plain["b"])}):
        for state in (tx.init(params), jax.tree.map(lambda x: place(x, *[None] * x.ndim), tx.init(params))):
            def body(carry, _):
                p, s = carry
                u, s = tx.update(grads, s, p)
                return (gf.apply_updates(p, u), s), u["w"]
            (new, after), steps = jax.jit(lambda p, s: jax.lax.scan(body, (p, s), None, 2))(params, state)
            np.testing.assert_allclose(steps[0], expected["w"], 1e-5, 1e-6)
            assert new["w"].sharding.is_equivalent_to(params["w"].sharding, 2)
            for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
                assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
""",
    )


def test_a_mask_of_boxed_parameters_means_the_parameters() -> None:
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
    params = nnx.state(layer, nnx.Param)
    is_matrix = lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)  # noqa: E731
    for mask in (is_matrix(params), is_matrix, ~gf.paths("bias"), gf.ndim(2)):
        tx = gf.chain(gf.set_to_zero(), gf.add_decayed_weights(0.5, mask=mask))
        updates, _ = tx.update(params, tx.init(params), params)
        kernel, bias = (jax.tree.leaves(updates[name])[0] for name in ("kernel", "bias"))
        np.testing.assert_allclose(kernel, 0.5 * jax.tree.leaves(params["kernel"])[0])
        np.testing.assert_array_equal(bias, 0)


def test_placeholders_are_not_nan_while_nans_are_debugged() -> None:
    adam = gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))
    with jax.debug_nans(True):
        for tx in (
            gf.with_metrics(adam, {"w": "w"}),
            gf.with_metrics(gf.MultiSteps(adam, 2)),
            gf.with_metrics(gf.apply_if_finite(adam, 2)),
            gf.chain(gf.snapshot("g", lambda t: t), adam),
            gf.chain(gf.monitor({"n": gf.tree.norm}), adam),
        ):
            state = tx.init(PARAMS)
            for grads in (jax.tree.map(jnp.zeros_like, GRADS), GRADS):
                _, state = jax.jit(tx.update)(grads, state, PARAMS)

"""Optax there and back: transformations in each other's wrappers, and runs that change the library.

Every call of CALLS is for both libraries. A run begins in Optax and ends in gradflow; it must end where
Optax alone would have ended, unless OTHERWISE has a reason.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import interop
from gradflow._core._transformation import stages_of
from gradflow._expressions._registry import OWN_FACTORIES

optax = pytest.importorskip("optax")
flax_serialization = pytest.importorskip("flax.serialization")


class Peer:
    """Optax with the names of its modules in one."""

    def __getattr__(self, name: str) -> Any:
        for module in (optax.contrib, optax, optax.transforms):
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)


def _is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim == 2, params)


def _by_rank(params: Any) -> Any:
    return jax.tree.map(lambda p: "matrix" if p.ndim == 2 else "rest", params)


def _schedule(o: Any) -> Any:
    return o.linear_schedule(0.02, 0.001, 10)


def _odd(step: Any, *_: Any, **__: Any) -> Any:
    return step % 2 == 1


CALLS: dict[str, Callable[[Any], Any]] = {
    "acprop": lambda o: o.acprop(0.01),
    "adabelief": lambda o: o.adabelief(0.01),
    "adabelief-nesterov": lambda o: o.adabelief(_schedule(o), nesterov=True),
    "adadelta": lambda o: o.adadelta(0.5, weight_decay=0.1, weight_decay_mask=_is_matrix),
    "adafactor": lambda o: o.adafactor(min_dim_size_to_factor=2),
    "adafactor-momentum": lambda o: o.adafactor(
        0.01, 2, momentum=0.9, dtype_momentum=jnp.float64, weight_decay_rate=0.01
    ),
    "adafactor-unfactored": lambda o: o.adafactor(_schedule(o), factored=False, clipping_threshold=None),
    "adagrad": lambda o: o.adagrad(0.1),
    "adam": lambda o: o.adam(0.01),
    "adam-schedule": lambda o: o.adam(_schedule(o), nesterov=True),
    "adamax": lambda o: o.adamax(0.01),
    "adamaxw": lambda o: o.adamaxw(0.01, mask=_is_matrix),
    "adamw": lambda o: o.adamw(_schedule(o), weight_decay=0.1, mask=_is_matrix),
    "adan": lambda o: o.adan(0.01, weight_decay=0.1),
    "ademamix": lambda o: o.ademamix(0.01, weight_decay=0.1),
    "adopt": lambda o: o.adopt(0.01),
    "adopt-nesterov": lambda o: o.adopt(0.01, nesterov=True, use_clipping=False),
    "amsgrad": lambda o: o.amsgrad(0.01),
    "cocob": lambda o: o.cocob(weight_decay=0.01),
    "dadapt_adamw": lambda o: o.dadapt_adamw(weight_decay=0.1),
    "dog": lambda o: o.dog(init_step=("heuristic", 1e-2), weight_decay=0.1),
    "dowg": lambda o: o.dowg(0.5, init_estim_sq_dist=0.1),
    "fromage": lambda o: o.fromage(0.01),
    "galore": lambda o: o.galore(0.01, rank=2, update_proj_gap=10),
    "lamb": lambda o: o.lamb(0.01, weight_decay=0.1, mask=_is_matrix),
    "lars": lambda o: o.lars(0.1, weight_decay=0.1, trust_coefficient=0.1, trust_ratio_mask=_is_matrix),
    "lbfgs": lambda o: o.lbfgs(memory_size=3),
    "lbfgs-rate": lambda o: o.lbfgs(0.05, memory_size=3, linesearch=None),
    "lion": lambda o: o.lion(0.01),
    "madgrad": lambda o: o.madgrad(0.01, weight_decay=0.1),
    "momo": lambda o: o.momo(0.5, adapt_lower_bound=True),
    "momo_adam": lambda o: o.momo_adam(0.1, adapt_lower_bound=True),
    "muon": lambda o: o.muon(0.01, weight_decay=0.1),
    "muon-adaptive": lambda o: o.muon(_schedule(o), nesterov=False, adaptive=True),
    "nadam": lambda o: o.nadam(0.01),
    "nadamw": lambda o: o.nadamw(0.01),
    "noisy_sgd": lambda o: o.noisy_sgd(0.01, key=jax.random.key(0)),
    "novograd": lambda o: o.novograd(0.01, weight_decay=0.1),
    "optimistic_adam_v2": lambda o: o.optimistic_adam_v2(0.01),
    "optimistic_gradient_descent": lambda o: o.optimistic_gradient_descent(0.01),
    "polyak_sgd": lambda o: o.polyak_sgd(0.1, 0.5),
    "prodigy": lambda o: o.prodigy(weight_decay=0.1),
    "radam": lambda o: o.radam(0.01),
    "radam-nesterov": lambda o: o.radam(0.01, b2=0.9, nesterov=True),
    "rmsprop": lambda o: o.rmsprop(0.01),
    "rmsprop-momentum": lambda o: o.rmsprop(_schedule(o), eps_in_sqrt=False, momentum=0.9, nesterov=True),
    "rmsprop-corrected": lambda o: o.rmsprop(0.01, bias_correction=True, initial_scale=0.1),
    "rmsprop-centered": lambda o: o.rmsprop(0.01, centered=True, momentum=0.9),
    "rmsprop-centered-corrected": lambda o: o.rmsprop(0.01, centered=True, bias_correction=True, eps=1e-3),
    "rprop": lambda o: o.rprop(0.01),
    "schedule_free_adamw": lambda o: o.schedule_free_adamw(0.01, 2, weight_decay=0.1),
    "schedule_free_sgd": lambda o: o.schedule_free_sgd(0.01, warmup_steps=2, weight_decay=0.1),
    "sgd": lambda o: o.sgd(0.01),
    "sgd-momentum": lambda o: o.sgd(_schedule(o), momentum=0.9, nesterov=True, accumulator_dtype=jnp.float64),
    "sign_sgd": lambda o: o.sign_sgd(0.01),
    "signum": lambda o: o.signum(0.01),
    "simplified_ademamix": lambda o: o.simplified_ademamix(0.01, alpha=1.0, weight_decay=0.1),
    "sm3": lambda o: o.sm3(0.01),
    "sophia": lambda o: o.sophia(0.01, update_interval=2),
    "yogi": lambda o: o.yogi(0.01),
    # Blocks.
    "adaptive_grad_clip": lambda o: o.chain(o.adaptive_grad_clip(0.1), o.scale(-0.01)),
    "add_noise": lambda o: o.chain(o.add_noise(0.1, 0.55, key=jax.random.key(3)), o.scale(-0.01)),
    "apply_every": lambda o: o.chain(o.scale(-0.01), o.apply_every(2)),
    "backtracking": lambda o: o.chain(o.scale(-1.0), o.scale_by_backtracking_linesearch(10, store_grad=True)),
    "ema": lambda o: o.chain(o.ema(0.9), o.zero_nans(), o.scale(-0.01)),
    "monitor": lambda o: o.chain(
        o.monitor({"norm": o.measure_with_ema(lambda g: jnp.max(jnp.abs(g["w"])), 0.9), "ema": o.ema(0.5)}),
        o.snapshot("largest", lambda g: jnp.max(g["w"])),
        o.scale(-0.01),
    ),
    "reduce_on_plateau": lambda o: o.chain(
        o.adam(0.01), o.reduce_on_plateau(0.5, patience=1, rtol=0.5, accumulation_size=2)
    ),
    "scale_by_distance_over_gradients": lambda o: o.chain(
        o.scale_by_distance_over_gradients(), o.scale(-1.0)
    ),
    "differentially_private_aggregate": lambda o: o.chain(
        o.differentially_private_aggregate(1.0, 0.1, key=jax.random.key(1)), o.sgd(0.1)
    ),
    # Wrappers.
    "chain": lambda o: o.chain(
        o.clip_by_global_norm(1.0),
        o.chain(o.centralize(), o.trace(0.9)),
        o.scale_by_schedule(lambda c: -0.01),
    ),
    "named_chain": lambda o: o.named_chain(("clip", o.clip(0.5)), ("adam", o.adam(_schedule(o)))),
    "masked": lambda o: o.chain(o.masked(o.trace(0.9), _is_matrix), o.scale_by_learning_rate(0.01)),
    "partition": lambda o: o.partition(
        {"matrix": o.adam(0.01), "rest": o.sgd(_schedule(o)), "unused": o.adam(0.1)}, _by_rank
    ),
    "freeze": lambda o: o.chain(o.adam(0.01), o.freeze({"w": False, "b": True})),
    "selective_transform": lambda o: o.selective_transform(o.adam(0.01), freeze_mask={"w": True, "b": False}),
    "MultiSteps": lambda o: o.MultiSteps(o.adamw(_schedule(o)), 2).gradient_transformation(),
    "MultiSteps-skip": lambda o: o.MultiSteps(
        o.sgd(0.01), lambda step: 2, use_grad_mean=False, should_skip_update_fn=o.skip_not_finite
    ).gradient_transformation(),
    "apply_if_finite": lambda o: o.apply_if_finite(o.adam(_schedule(o)), 2),
    "inject_hyperparams": lambda o: o.inject_hyperparams(o.adamw)(_schedule(o), b1=0.8),
    "inject_hyperparams-number": lambda o: o.inject_hyperparams(o.sgd)(0.01, momentum=0.9),
    "lookahead": lambda o: o.lookahead(o.adam(0.01), 2, 0.5),
    "mechanize": lambda o: o.mechanize(o.sgd(0.1), s_init=1e-2),
    "sam": lambda o: o.sam(o.sgd(0.01, momentum=0.9), o.chain(o.normalize(), o.sgd(0.05)), sync_period=2),
    "schedule_free": lambda o: o.schedule_free(o.adamw(0.01, b1=0.0), 0.01),
    "conditionally_transform": lambda o: o.chain(
        o.conditionally_transform(o.trace(0.9), _odd), o.scale_by_learning_rate(0.01)
    ),
    "conditionally_mask": lambda o: o.conditionally_mask(o.adam(_schedule(o)), _odd),
    "split_real_and_imaginary": lambda o: o.split_real_and_imaginary(o.adam(0.01)),
    "flatten": lambda o: o.flatten(o.adamw(0.01)),
}

# Calls whose run goes another way in gradflow from the same state.
OTHERWISE: dict[str, str] = {
    "rprop": "Optax is one step late",
    "add_noise": "other noise from the same key",
    "noisy_sgd": "other noise from the same key",
    "differentially_private_aggregate": "other noise from the same key",
}

# What both libraries have and no call above is made of. There is nothing in their states.
STATELESS = frozenset(
    ["keep_params_nonnegative", "scale_by_param_block_norm", "stateless", "stateless_with_tree_map"]
)
# What no call above is made of, for another reason.
APART: dict[str, str] = {
    "dpsgd": "a chain of what is above",
}

# What the update takes beside the gradient, if anything.
_EXTRA: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["lbfgs", "backtracking"], ("value", "grad", "value_fn")),
    **dict.fromkeys(["momo", "momo_adam", "polyak_sgd", "reduce_on_plateau"], ("value",)),
    "sophia": ("obj_fn",),
}


@pytest.fixture
def lenient() -> Iterator[None]:
    """Optax mixes dtypes as it pleases."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def _loss(params: Any) -> jax.Array:
    curved = [jnp.sum(jnp.cosh(jnp.abs(p)) + jnp.abs(p - 0.3) ** 2) for p in jax.tree.leaves(params)]
    return jnp.sum(jnp.stack(curved))


def _start(case: str = "", dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(0)
    # GaLore projects the longer side in Optax, the shorter one in gradflow; new bases have other signs.
    shape = (4, 4) if case == "galore" else (3, 4)
    params = {"w": jnp.asarray(rng.normal(size=shape), dtype), "b": jnp.asarray(rng.normal(size=3), dtype)}
    return optax.LookaheadParams.init_synced(params) if case == "lookahead" else params


class Run(NamedTuple):
    """Parameters and state after some steps."""

    params: Any
    state: Any


def _runner(case: str, tx: Any) -> Callable[[Run, int], Run]:
    """Takes some steps with a transformation of either library."""

    @jax.jit
    def step(run: Run) -> Run:
        params, state = run
        value, grad = jax.value_and_grad(_loss)(params.fast if case == "lookahead" else params)
        taken = {"value": value, "grad": grad, "value_fn": _loss, "obj_fn": _loss}
        if case == "differentially_private_aggregate":
            grad = jax.tree.map(lambda g: jnp.stack([g, 0.5 * g]), grad)
        updates, state = tx.update(
            grad, state, params, **{name: taken[name] for name in _EXTRA.get(case, ())}
        )
        return Run(optax.apply_updates(params, updates), state)

    def run(begin: Run, steps: int) -> Run:
        for _ in range(steps):
            begin = step(begin)
        return begin

    return run


def _largest(tree: Any) -> float:
    return max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(tree))


def _distance(a: Any, b: Any) -> float:
    return _largest([x - y for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)])


def _form(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def _begun(
    call: Callable[[Any], Any], case: str, dtype: Any = np.float64
) -> tuple[Callable[[Run, int], Run], Run]:
    """What takes steps with Optax's transformation, and a run that it began."""
    theirs = call(Peer())
    start, runner = _start(case, dtype), _runner(case, theirs)
    return runner, runner(Run(start, theirs.init(start)), 3)


@pytest.mark.usefixtures("lenient", "x64")
@pytest.mark.parametrize("case", CALLS)
def test_a_run_changes_from_optax_to_gradflow(case: str) -> None:
    go_on, half = _begun(CALLS[case], case)
    ours = CALLS[case](gf)
    params = gf.LookaheadParams(*half.params) if case == "lookahead" else half.params
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state = interop.from_optax_state(ours, half.state, params)
        end = _runner(case, ours)(Run(params, state), 3)
    assert _form(state) == _form(jax.eval_shape(ours.init, params))
    assert np.isfinite(_largest(end.params))
    if case not in OTHERWISE:
        whole = go_on(half, 3)
        assert _distance(end.params, whole.params) < 1e-6 * _distance(half.params, whole.params)


def test_every_name_of_both_libraries_is_called() -> None:
    peer = Peer()
    both = {
        name
        for name, factory in OWN_FACTORIES.items()
        if factory.kind == "transformation" and hasattr(peer, name)
    }
    called = {stage.expression.name for call in CALLS.values() for stage in stages_of(call(gf))}
    assert both - called == STATELESS | set(APART)
    start = _start(dtype=np.float32)
    for name in STATELESS & both:
        required = {"threshold": 1.0, "f": lambda u, p: u}
        factory = OWN_FACTORIES[name]
        needed = [n for n, p in factory.parameters.items() if p.default is p.empty]
        tx = getattr(gf, name)(**{n: required[n] for n in needed})
        assert not jax.tree.leaves(tx.init(start)), name


@pytest.mark.usefixtures("lenient")
def test_rprop_keeps_signs_where_optax_keeps_steps() -> None:
    theirs, ours = optax.rprop(0.01), gf.rprop(0.01)
    params = _start(dtype=np.float32)
    their_state, our_state = theirs.init(params), ours.init(params)
    for seed in range(4):
        grad = jax.tree.map(lambda p, s=seed: jax.random.normal(jax.random.key(s), p.shape), params)
        _, their_state = theirs.update(grad, their_state, params)
        _, our_state = ours.update(grad, our_state, params)
    chex.assert_trees_all_close(interop.from_optax_state(ours, their_state, params), our_state)


@pytest.mark.usefixtures("lenient")
def test_noise_goes_on_from_the_same_key() -> None:
    _, half = _begun(CALLS["add_noise"], "", np.float32)
    state = interop.from_optax_state(CALLS["add_noise"](gf), half.state, half.params)
    assert int(state[0].count) == 3
    np.testing.assert_array_equal(state[0].rng_key, jax.random.key_data(half.state[0].rng_key))


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("case", ["adamw", "adafactor", "amsgrad", "schedule_free_adamw", "prodigy", "lion"])
def test_half_precision_moments_become_what_gradflow_keeps(case: str) -> None:
    _, half = _begun(CALLS[case], case, jnp.bfloat16)
    ours = CALLS[case](gf)
    state = interop.from_optax_state(ours, half.state, half.params)
    assert _form(state) == _form(jax.eval_shape(ours.init, half.params))
    ours.update(half.params, state, half.params)


@pytest.mark.usefixtures("lenient")
def test_moments_of_complex_parameters_become_real() -> None:
    params = {"z": jnp.asarray([1.0 + 2.0j, -0.5j])}
    theirs = optax.adam(0.1)
    _, state = theirs.update(params, theirs.init(params), params)
    taken = interop.from_optax_state(gf.adam(0.1), state, params)
    assert taken[0].nu["z"].dtype == np.float32
    np.testing.assert_allclose(taken[0].nu["z"], 0.001 * np.asarray([5.0, 0.25]), rtol=1e-4)


@pytest.mark.usefixtures("lenient")
def test_a_state_may_come_as_dicts_and_lists() -> None:
    def call(o: Any) -> Any:
        return o.chain(o.clip_by_global_norm(1.0), o.masked(o.trace(0.9), _is_matrix), o.adamw(_schedule(o)))

    _, half = _begun(call, "", np.float32)
    ours = call(gf)
    expected = interop.from_optax_state(ours, half.state, half.params)
    plain = flax_serialization.to_state_dict(half.state)
    assert isinstance(plain, dict)
    as_lists = [{}, {"inner_state": plain["1"]["inner_state"]}, [plain["2"]["0"], None, plain["2"]["2"]]]
    for state in (plain, as_lists, jax.tree.map(np.asarray, half.state)):
        chex.assert_trees_all_equal(interop.from_optax_state(ours, state, half.params), expected)


@pytest.mark.parametrize("call", [lambda o: o.adamw(0.1), lambda o: o.sgd(0.1), lambda o: o.lbfgs()])
def test_a_checkpoint_with_a_plain_rate_lacks_one_count(call: Any) -> None:
    params = _start(dtype=np.float32)
    restored = flax_serialization.msgpack_restore(flax_serialization.to_bytes(call(optax).init(params)))
    tx = call(gf)
    chex.assert_trees_all_equal(interop.from_optax_state(tx, restored, params), tx.init(params))


def test_counts_are_found_beside_and_within_and_given() -> None:
    params = _start(dtype=np.float32)
    five = jnp.asarray(5, jnp.int32)
    adam = optax.adam(0.1).init(params)
    adam = (adam[0]._replace(count=five), *adam[1:])
    ours = gf.chain(gf.adam(0.1), gf.scale_by_learning_rate(0.5))
    state = interop.from_optax_state(ours, (adam, optax.EmptyState()), params)
    assert [int(c) for _, c in gf.tree.get_all_with_path(state, "count")] == [5, 5, 5]

    inner = optax.MultiSteps(optax.sgd(0.1), 4).init(params)._replace(gradient_step=five, mini_step=five - 2)
    tx = gf.chain(gf.MultiSteps(gf.sgd(0.1), 4), gf.scale_by_learning_rate(0.1))
    state = interop.from_optax_state(tx, (inner, optax.EmptyState()), params)
    assert int(state[0].inner_opt_state[1].count) == 5
    assert int(state[1].count) == 0  # no stage counts micro-batches

    plain = optax.sgd(0.1).init(params)
    assert int(interop.from_optax_state(gf.sgd(0.1), plain, params)[1].count) == 0
    scheduled = gf.sgd(gf.linear_schedule(0.1, 0.0, 10))
    assert int(interop.from_optax_state(scheduled, plain, params, count=7)[1].count) == 7
    with pytest.raises(ValueError, match=r"argument 'count' must be given"):
        interop.from_optax_state(scheduled, plain, params)


def test_a_schedule_that_optax_does_not_have_finds_its_count() -> None:
    params = _start(dtype=np.float32)
    adam = optax.scale_by_adam().init(params)._replace(count=jnp.asarray(3, jnp.int32))
    tx = gf.chain(gf.scale_by_adam(), gf.trace(gf.linear_schedule(0.5, 0.9, 10)))
    state = interop.from_optax_state(tx, (adam, optax.trace(0.5).init(params)), params)
    assert isinstance(state[1], gf.ScheduledState)
    assert int(state[1].count) == 3


def test_nothing_is_shared_with_the_state_that_was_read() -> None:
    params = _start(dtype=np.float32)
    theirs = optax.adam(0.1).init(params)
    ours = interop.from_optax_state(gf.adam(0.1), theirs, params)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((params, theirs, ours))]
    assert len(set(pointers)) == len(pointers)


def test_it_works_under_jit_and_on_abstract_parameters() -> None:
    params = _start(dtype=np.float32)
    theirs = optax.adam(0.1).init(params)
    tx = gf.adam(0.1)
    expected = interop.from_optax_state(tx, theirs, params)
    shapes = jax.eval_shape(lambda: params)
    chex.assert_trees_all_equal(interop.from_optax_state(tx, theirs, shapes), expected)
    chex.assert_trees_all_equal(
        jax.jit(lambda s, p: interop.from_optax_state(tx, s, p))(theirs, params), expected
    )


def test_counts_lie_on_the_mesh_of_the_parameters() -> None:
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    along = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    params = {"w": jax.device_put(jnp.ones((8, 2)), along)}
    tx = gf.adam(0.1)
    state = interop.from_optax_state(tx, optax.adam(0.1).init(params), params)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, tx.init(params))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ("adam", "sgd", r"the state at '0/count' must be int32\[\]; got nothing"),
        ("sgd", "adam", "the state at '0' must be empty; got a tree of 5 arrays"),
        ("adam", "lion", "the state at '0' must be ScaleByAdamState; got ScaleByLionState"),
        ("adagrad", "rmsprop", "at '0' must be ScaleByRssState; got ScaleByRmsState"),
    ],
)
def test_another_optimizer_is_refused(ours: str, theirs: str, message: str) -> None:
    params = _start(dtype=np.float32)
    with pytest.raises(ValueError, match=message):
        interop.from_optax_state(getattr(gf, ours)(0.1), getattr(optax, theirs)(0.1).init(params), params)


def test_other_parameters_are_refused_by_path() -> None:
    params = _start(dtype=np.float32)
    state = optax.adam(0.1).init(params)
    other = {**params, "b": jnp.ones(5)}
    with pytest.raises(ValueError, match=r"at '0/mu/b' must be float32\[5\]; got float32\[3\]"):
        interop.from_optax_state(gf.adam(0.1), state, other)
    with pytest.raises(ValueError, match=r"at '0/mu' must have b, c, w; got b, w"):
        interop.from_optax_state(gf.adam(0.1), state, {**params, "c": jnp.ones(1)})
    with pytest.raises(ValueError, match=r"at '0/mu' must have w; got b, w"):
        interop.from_optax_state(gf.adam(0.1), state, {"w": params["w"]})
    broken = (state[0]._replace(count=jnp.ones(())), *state[1:])
    with pytest.raises(ValueError, match=r"at '0/count' must be int32\[\]; got float32\[\]"):
        interop.from_optax_state(gf.adam(0.1), broken, params)
    with pytest.raises(TypeError, match=r"argument 'tx' must be a transformation.*call it, as in adam"):
        interop.from_optax_state(gf.adam, state, params)


def test_what_must_be_known_of_a_stage_must_be_alike() -> None:
    params = _start(dtype=np.float32)

    def call(o: Any) -> Any:
        stages = [o.MultiSteps(o.sgd(0.1), k).gradient_transformation() for k in (2, 3)]
        return o.chain(*stages)

    with pytest.raises(ValueError, match=r"one value of the argument 'every_k_schedule' of MultiSteps"):
        interop.from_optax_state(call(gf), call(optax).init(params), params)


# Transformations in each other's wrappers.


def _gradients(params: Any, steps: int = 4) -> list[Any]:
    keys = jax.random.split(jax.random.key(1), steps)
    return [jax.tree.map(lambda p, k=k: jax.random.normal(k, p.shape), params) for k in keys]


def _path(tx: Any, params: Any) -> Any:
    """Where some steps with given gradients lead."""
    state = tx.init(params)
    for grad in _gradients(params):
        updates, state = tx.update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params


WRAPPERS: dict[str, Callable[[Any, Any], Any]] = {
    "chain": lambda o, tx: o.chain(o.clip_by_global_norm(1.0), tx),
    "MultiSteps": lambda o, tx: o.MultiSteps(tx, 2),
    "multi_transform": lambda o, tx: o.multi_transform({"matrix": tx, "rest": o.sgd(0.1)}, _by_rank),
    "masked": lambda o, tx: o.masked(tx, _is_matrix),
    "apply_if_finite": lambda o, tx: o.apply_if_finite(tx, 2),
    "flatten": lambda o, tx: o.flatten(tx),
}


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_each_library_wraps_the_others(wrapper: str) -> None:
    params = _start(dtype=np.float32)
    wrap = WRAPPERS[wrapper]
    expected = _path(wrap(optax, optax.adam(0.1)), params)
    for tx in (
        wrap(optax, gf.adam(0.1)),
        wrap(optax, interop.to_optax(gf.adam(0.1))),
        wrap(gf, interop.from_optax(optax.adam(0.1))),
        wrap(gf, optax.adam(0.1)),
    ):
        chex.assert_trees_all_close(_path(tx, params), expected, rtol=1e-4, atol=1e-5)


def test_selectors_see_through_the_masks_of_optax() -> None:
    params = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "b": {"bias": jnp.ones(2)}}
    decayed = gf.chain(gf.add_decayed_weights(0.5, mask=~gf.paths("**/bias")), gf.scale(-1.0))
    labels = {"a": "ours", "b": "theirs"}
    tx = optax.multi_transform({"ours": interop.to_optax(decayed), "theirs": optax.sgd(1.0)}, labels)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert float(updates["a"]["kernel"][0, 0]) == -0.5
    assert float(updates["a"]["bias"][0]) == float(updates["b"]["bias"][0]) == 0


def test_extra_arguments_go_through_optax() -> None:
    params = jnp.ones(3)
    tx = interop.to_optax(gf.momo(1.0))
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    chained = optax.chain(optax.identity(), tx)
    updates, _ = chained.update(params, chained.init(params), params, value=jnp.float32(1.5))
    np.testing.assert_allclose(updates, -0.5 * params, rtol=1e-6)


def test_extra_arguments_that_optax_does_not_take_are_left_out() -> None:
    params = jnp.ones(3)
    tx = gf.chain(interop.from_optax(optax.trace(0.9)), gf.momo(1.0))
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(1.5))
    np.testing.assert_allclose(updates, -0.5 * params, rtol=1e-6)


def test_from_optax_is_a_value() -> None:
    pair = optax.adam(0.1)
    tx = interop.from_optax(pair)
    assert isinstance(tx, gf.GradientTransformation)
    assert tx == interop.from_optax(pair) != interop.from_optax(optax.adam(0.1))
    assert hash(tx) == hash(interop.from_optax(pair))
    assert repr(tx).startswith("GradientTransformation(")
    assert interop.from_optax(tx) is tx
    assert type(tx.init({"w": jnp.ones(2)})[0]) is optax.ScaleByAdamState
    assert "GradientTransformation" in " ".join(gf.addresses(gf.chain(tx, gf.scale(2.0))))


def test_from_optax_takes_what_is_no_pair() -> None:
    params = _start(dtype=np.float32)
    with jax.numpy_dtype_promotion("standard"):
        tx = interop.from_optax(optax.MultiSteps(optax.sgd(0.1), 2))
        updates, _ = tx.update(params, tx.init(params), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))
    with pytest.raises(TypeError, match=r"from_optax: the argument must be a transformation; got 3"):
        interop.from_optax(3)
    with pytest.raises(TypeError, match=r"to_optax: the argument must be a transformation.*A schedule goes"):
        interop.to_optax(gf.constant_schedule(0.1))


def test_there_and_back_is_the_same_value() -> None:
    tx = gf.adamw(1e-3)
    assert interop.from_optax(interop.to_optax(tx)) == tx


def test_without_optax_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r"to_optax: Optax is not installed: pip install optax"):
        interop.to_optax(gf.sgd(0.1))
    params = {"w": jnp.ones(2)}
    state = interop.from_optax_state(gf.sgd(0.1, momentum=0.9), [{"trace": params}, {}], params)
    chex.assert_trees_all_equal(state[0].trace, params)

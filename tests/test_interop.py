"""Optax there and back: transformations in each other's wrappers, and runs that change the library.

Every call of CALLS is for both libraries. A run begins in Optax and ends in gradflow; it must end where
Optax alone would have ended. OTHERWISE says of what else it must be the end, and why.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradflow as gf
from gradflow import interop
from gradflow._base import own_factories

optax = pytest.importorskip("optax")
flax_serialization = pytest.importorskip("flax.serialization")


class Peer:
    """Optax with the names of its modules in one."""

    def __getattr__(self, name: str) -> Any:
        for module in (optax, optax.contrib, optax.transforms):
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
    "galore": lambda o: o.galore(0.01, rank=2, update_proj_gap=4),
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
    "backtracking": lambda o: o.chain(
        o.scale(-1.0), o.scale_by_backtracking_linesearch(10, store_grad=True)
    ),
    "zoom": lambda o: o.chain(o.scale(-1.0), o.scale_by_zoom_linesearch(10)),
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
        o.clip_by_global_norm(1.0), o.chain(o.centralize(), o.trace(0.9)), o.scale_by_schedule(lambda c: -0.01)
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

# Of what a run that changes from Optax to gradflow is the end, if not of the same run in Optax alone.
OTHERWISE: dict[str, tuple[str, str]] = {}

# Names of both libraries that no call above is made of, or nothing is in their states.
NOT_CALLED: frozenset[str] = frozenset()


def _loss(params: Any) -> jax.Array:
    curved = [jnp.sum(jnp.cosh(jnp.abs(p)) + jnp.abs(p - 0.3) ** 2) for p in jax.tree.leaves(params)]
    return jnp.sum(jnp.stack(curved))


# What the update is told beside the gradient, where it is told anything.
_TOLD: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(["lbfgs", "backtracking", "zoom"], ("value", "grad", "value_fn")),
    **dict.fromkeys(["momo", "momo_adam", "polyak_sgd", "reduce_on_plateau"], ("value",)),
    "sophia": ("obj_fn",),
}


def _start(dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(0)
    return {"w": jnp.asarray(rng.normal(size=(3, 4)), dtype), "b": jnp.asarray(rng.normal(size=3), dtype)}


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
        told = {"value": value, "grad": grad, "value_fn": _loss, "obj_fn": _loss}
        if case == "differentially_private_aggregate":
            grad = jax.tree.map(lambda g: jnp.stack([g, 0.5 * g]), grad)
        updates, state = tx.update(grad, state, params, **{name: told[name] for name in _TOLD.get(case, ())})
        if case == "lookahead":
            updates = type(params)(*updates)
        return Run(optax.apply_updates(params, updates), state)

    def run(begin: Run, steps: int) -> Run:
        for _ in range(steps):
            begin = step(begin)
        return begin

    return run


def _error(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in pairs)


def _form(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.mark.parametrize("case", CALLS)
def test_a_run_changes_from_optax_to_gradflow(case: str) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs, ours = CALLS[case](Peer()), CALLS[case](gf)
        start = _start()
        if case == "lookahead":
            start = optax.LookaheadParams.init_synced(start)
        run = _runner(case, theirs)
        half = run(Run(start, theirs.init(start)), 3)
        whole = run(half, 3)
        params = gf.LookaheadParams(*half.params) if case == "lookahead" else half.params
        state = interop.from_optax_state(ours, half.state, params)
        assert _form(state) == _form(jax.eval_shape(ours.init, params))
        end = _runner(case, ours)(Run(params, state), 3)
        moved = _error(whole.params, half.params)
        print(case, _error(end.params, whole.params) / moved)
        assert _error(end.params, whole.params) < 1e-6 * moved

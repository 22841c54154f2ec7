"""What the laws run over: every listed factory, and the departures from the laws, each with its reason.

A factory joins by being listed in its room. It needs an entry here only if a required argument is of a
kind that no other factory has.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow._core._transformation import stages_of
from gradflow._expressions._expression import children
from gradflow._expressions._registry import OWN_FACTORIES

# Values for required arguments, by name.
ARGUMENTS: dict[str, Any] = {
    "max_backtracking_steps": 10,
    "max_linesearch_steps": 10,
    "learning_rate": 0.1,
    "step_size": -0.5,
    "step_size_fn": 0.5,
    "weight_decay": 0.01,
    "decay": 0.9,
    "max_norm": 1.0,
    "num_examples": 100.0,
    "max_delta": 0.5,
    "threshold": 0.5,
    "clipping": 0.01,
    "eta": 0.01,
    "gamma": 0.55,
    "f": lambda u, p: u,
}


def _inner() -> Any:
    return gf.chain(gf.trace(0.9), gf.scale_by_learning_rate(0.1))


def _by_rank(params: Any) -> Any:
    return jax.tree.map(lambda p: "matrix" if p.ndim == 2 else "other", params)


def _largest(tree: Any) -> Any:
    """A measurement of any tree: the largest number of each leaf of floats."""

    def largest(x: jax.Array) -> jax.Array | None:
        return jnp.max(jnp.abs(x), initial=0) if jnp.issubdtype(x.dtype, jnp.inexact) else None

    return jax.tree.map(largest, tree)


def _signs(tree: Any) -> Any:
    """A measurement shaped like the tree, of another dtype."""
    return jax.tree.map(lambda x: x == x, tree)


class SlowState(NamedTuple):
    """The state of a transformation of `LookaheadParams`, and the slow ones."""

    inner_state: Any
    slow: Any


@gf.transformation(trees="alike")
def with_slow_weights(inner: gf.GradientTransformation, params_type: type = gf.LookaheadParams) -> Any:
    """Keeps the slow weights in the state, so that parameters are trees like any others."""

    def init(params: Any) -> Any:
        pair = params_type.init_synced(params)
        return SlowState(inner.init(pair), pair.slow)

    def update(updates: Any, state: SlowState, params: Any, **extra: Any) -> Any:
        updates, inner_state = inner.update(updates, state.inner_state, params_type(params, state.slow))
        return updates.fast, SlowState(inner_state, gf.apply_updates(state.slow, updates.slow))

    return init, update


@gf.transformation(trees="alike")
def with_examples(
    inner: gf.GradientTransformation, batch: Callable[[Any], Any] = lambda g: jnp.stack([g, g])
) -> Any:
    """Gives a transformation of examples' gradients a batch of equal ones."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        return inner.update(jax.tree.map(batch, updates), state, params, **extra)

    return inner.init, update


def _variance(last: Any) -> Any:
    return gf.process(
        gf.identity(), gf.get_per_element_mean_and_sum_sq_diff_grads(), last, aggregator_has_aux=True
    )


def into_ball(params: Any) -> Any:
    """The nearest parameters of norm 2 at most."""
    return gf.tree.scale(2 / jnp.maximum(gf.tree.norm(params), 2), params)


# Factories whose arguments are transformations, masks or functions of trees.
EXAMPLES: dict[str, Callable[[], Any]] = {
    "scale_by_muon": lambda: gf.masked(gf.scale_by_muon(), gf.ndim(2)),
    "scale_by_shape": lambda: gf.masked(gf.scale_by_shape(), gf.ndim(2)),
    # The laws' equal gradients leave directions in which there is only rounding; a large eps keeps it small.
    "scale_by_soap": lambda: gf.scale_by_soap(eps=1e-2, precondition_frequency=2),
    "soap": lambda: gf.soap(0.1, eps=1e-2, precondition_frequency=2),
    "scale_by_shampoo": lambda: gf.scale_by_shampoo(0.9, eps=1e-2),
    "shampoo": lambda: gf.shampoo(0.1, 0.9, eps=1e-2),
    "orthogonalize": lambda: gf.masked(gf.orthogonalize(), gf.ndim(2)),
    "scale_by_neuron_norm": lambda: gf.masked(gf.scale_by_neuron_norm(), gf.ndim(2)),
    "scale_by_splus": lambda: gf.masked(gf.scale_by_splus(), gf.ndim(2)),
    "scale_by_adamuon": lambda: gf.masked(gf.scale_by_adamuon(), gf.ndim(2)),
    # Of one row the steps of Polar Express magnify rounding to 2e-5.
    "scale_by_dion2": lambda: gf.masked(gf.scale_by_dion2(ns_coeffs="keller"), gf.ndim(2)),
    "step_by_muown": lambda: gf.masked(gf.step_by_muown(0.1), gf.ndim(2)),
    "for_matrices": lambda: gf.for_matrices(gf.chain(gf.trace(0.9), gf.scale_by_learning_rate(0.1))),
    "chain": lambda: gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.01)),
    "named_chain": lambda: gf.named_chain(("clip", gf.clip(0.5)), ("adam", gf.adam(0.01))),
    "stateless": lambda: gf.stateless(lambda u, p: gf.tree.scale(0.5, u)),
    "stateless_with_tree_map": lambda: gf.stateless_with_tree_map(lambda u, p: u * 0.5),
    "masked": lambda: gf.masked(_inner(), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "injected": lambda: gf.inject_hyperparams(gf.adamw)(
        learning_rate=gf.linear_schedule(0.1, 0.0, 100), weight_decay=0.01
    ),
    "tunable": lambda: gf.tunable(
        gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(gf.linear_schedule(0.1, 0.0, 100)))
    ),
    "cautious": lambda: gf.cautious(gf.scale_by_adam()),
    "remove_radial": lambda: gf.remove_radial(gf.trace(0.9), 10.0, 0.1),
    "proximal": lambda: gf.proximal(gf.sgd(0.1, 0.9), gf.l1_penalty(0.01)),
    "projected": lambda: gf.projected(gf.adam(0.1), into_ball),
    "fista": lambda: gf.fista(0.1, gf.l1_penalty(0.01)),
    "outer": lambda: gf.outer(gf.adam(0.1), gf.sgd(0.7, 0.9, nesterov=True), 2),
    "ema_nesterov": lambda: gf.ema_nesterov(_inner()),
    "with_tail_average": lambda: gf.with_tail_average(_inner()),
    "with_qk_clip": lambda: gf.with_qk_clip(_inner(), gf.ndim(2), None, -1),
    "skip_spikes": lambda: gf.skip_spikes(_inner(), 8),
    "spread": lambda: gf.spread(_inner()),
    "stacked": lambda: gf.stacked(
        gf.soap(0.1, eps=1e-2, precondition_frequency=2, matrices=gf.hidden_matrices())
    ),
    "shard_state": lambda: gf.shard_state(_inner(), axis="x"),
    "offload_state": lambda: gf.offload_state(_inner(), 1),
    "with_param_ema": lambda: gf.with_param_ema(_inner(), 0.9),
    "quantize_state": lambda: gf.quantize_state(gf.adamw(0.1), block=4, min_size=1),
    "master_params": lambda: gf.master_params(gf.adamw(0.1)),
    "with_loss_scale": lambda: gf.with_loss_scale(_inner(), 0.5, 2),
    "cast_state": lambda: gf.cast_state(gf.adamw(0.1), {"mean": "bfloat16", "square": "bfloat16"}),
    "with_swa": lambda: gf.with_swa(_inner(), 1, 2),
    "with_lawa": lambda: gf.with_lawa(_inner(), 2),
    "partition": lambda: gf.partition({"matrix": _inner(), "other": gf.adam(0.01)}, _by_rank),
    "scale_by_path": lambda: gf.scale_by_path({gf.ndim(2): 0.5}),
    "freeze": lambda: gf.freeze(gf.ndim(1)),
    "selective_transform": lambda: gf.selective_transform(_inner(), freeze_mask=gf.ndim(1)),
    "with_metrics": lambda: gf.with_metrics(_inner()),
    # Short steps: at the minimum of the laws' loss nothing is left but roundings.
    "lbfgs": lambda: gf.lbfgs(linesearch=gf.scale_by_zoom_linesearch(20, 1.0, initial_guess_strategy="one")),
    "lbfgsb": lambda: gf.lbfgsb(-50.0, 50.0, memory_size=2),
    "mechanize": lambda: gf.mechanize(_inner()),
    "apply_if_finite": lambda: gf.apply_if_finite(_inner(), 2),
    "MultiSteps": lambda: gf.MultiSteps(_inner(), 2),
    "add_noise": lambda: gf.add_noise(0.01, 0.55, key=0),
    "noisy_sgd": lambda: gf.noisy_sgd(0.1, key=0),
    "lookahead": lambda: with_slow_weights(gf.lookahead(_inner(), 2, 0.5)),
    "schedule_free": lambda: gf.schedule_free(gf.sgd(0.1), 0.1),
    "sam": lambda: gf.sam(_inner(), gf.chain(gf.normalize(), gf.sgd(0.05))),
    "gsam": lambda: gf.gsam(_inner(), gf.chain(gf.normalize(), gf.sgd(0.05))),
    "looksam": lambda: gf.looksam(_inner(), gf.chain(gf.normalize(), gf.sgd(0.05)), 2),
    "msam": lambda: gf.msam(_inner()),
    "lazy_rows": lambda: gf.lazy_rows(_inner(), 0.01),
    "conditionally_transform": lambda: gf.conditionally_transform(_inner(), lambda step: step % 2 == 0),
    "conditionally_mask": lambda: gf.conditionally_mask(_inner(), lambda step: step % 2 == 0),
    "split_real_and_imaginary": lambda: gf.split_real_and_imaginary(_inner()),
    "flatten": lambda: gf.flatten(_inner()),
    "snapshot": lambda: gf.snapshot("largest", _largest),
    "monitor": lambda: gf.monitor({"ema": gf.ema(0.9), "trace": gf.trace(0.9)}),
    "measure_with_ema": lambda: gf.monitor({"largest": gf.measure_with_ema(_largest, 0.9)}),
    "differentially_private_aggregate": lambda: with_examples(
        gf.differentially_private_aggregate(1.0, 0.1, key=0)
    ),
    "dpsgd": lambda: with_examples(gf.dpsgd(0.1, 1.0, 0.1, key=0, momentum=0.9)),
    "average_per_element_updates": lambda: with_examples(gf.average_per_element_updates()),
    "accumulate_avg_updates": lambda: gf.accumulate_avg_updates(2),
    "average_incrementally_updates": lambda: with_examples(gf.average_incrementally_updates(0, 2)),
    "get_per_element_mean_and_sum_sq_diff_grads": lambda: with_examples(_variance(gf.identity())),
    "track_per_element_mean_and_variance_with_ema": lambda: with_examples(
        _variance(gf.track_per_element_mean_and_variance_with_ema())
    ),
    "process": lambda: with_examples(
        gf.process(gf.clip(0.5), gf.average_incrementally_updates(0, 2), _inner())
    ),
    "add_mean_variance_to_opt": lambda: with_examples(
        gf.add_mean_variance_to_opt(gf.adam(0.1), accumulation_steps=2)
    ),
}

# Arguments whose other values take another path through a factory.
VARIANTS: dict[str, Callable[[], Any]] = {
    "chain-empty": lambda: gf.chain(),
    "chain-nested": lambda: gf.chain(gf.chain(gf.scale(0.5)), gf.chain(gf.adam(0.1), gf.identity())),
    "adam-nesterov": lambda: gf.adam(0.1, nesterov=True),
    "adam-mu_dtype": lambda: gf.adam(0.1, mu_dtype=jnp.bfloat16),
    "adamw-mask": lambda: gf.adamw(0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "sgd-momentum": lambda: gf.sgd(0.1, momentum=0.9),
    "sgd-nesterov": lambda: gf.sgd(0.1, momentum=0.9, nesterov=True),
    "sgd-dampening": lambda: gf.sgd(0.1, momentum=0.9, dampening=0.5),
    "adagrad-from_zero": lambda: gf.adagrad(0.1, initial_accumulator_value=0.0),
    "rmsprop-outside": lambda: gf.rmsprop(0.1, eps_in_sqrt=False),
    "rmsprop-centered": lambda: gf.rmsprop(0.1, centered=True, momentum=0.9),
    "rmsprop-corrected": lambda: gf.rmsprop(0.1, bias_correction=True),
    "amsgrad-raw": lambda: gf.amsgrad(0.1, max_of_raw=True),
    "nadam-scheduled_momentum": lambda: gf.nadam(0.1, momentum_decay=0.004),
    "rmsprop-centered-corrected": lambda: gf.rmsprop(
        0.1, centered=True, eps_in_sqrt=False, bias_correction=True
    ),
    "amsgrad-uncorrected": lambda: gf.amsgrad(0.1, bias_correction_mu=False, bias_correction_nu=False),
    "lion-smooth": lambda: gf.chain(gf.scale_by_lion(mode="smooth"), gf.scale(-0.1)),
    "lion-refined": lambda: gf.chain(gf.scale_by_lion(mode="refined"), gf.scale(-0.1)),
    "adabelief-nesterov": lambda: gf.adabelief(0.1, weight_decay=0.01, nesterov=True),
    "radam-nesterov": lambda: gf.radam(0.1, nesterov=True),
    "adan-official": lambda: gf.adan(0.1, official_scaling=True),
    "adopt-nesterov": lambda: gf.adopt(0.1, nesterov=True, clip_value_fn=lambda count: 0.5),
    "adopt-unclipped": lambda: gf.adopt(0.1, use_clipping=False),
    "sm3-averaging": lambda: gf.chain(gf.scale_by_sm3(b2=0.9), gf.scale(-0.1)),
    "lookahead-reset": lambda: with_slow_weights(gf.lookahead(gf.adam(0.1), 2, 0.5, reset_state=True)),
    "split_real_and_imaginary-adam": lambda: gf.split_real_and_imaginary(gf.adam(0.1)),
    "snapshot-signs": lambda: gf.snapshot("signs", _signs),
    "flatten-adamw": lambda: gf.flatten(gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.1))),
    "reduce_on_plateau-windows": lambda: gf.reduce_on_plateau(
        0.5, patience=1, atol=0.1, cooldown=1, accumulation_size=2, min_scale=0.2
    ),
    "sam-three": lambda: gf.sam(_inner(), gf.adam(0.05), 3, reset_state=False),
    "sam-opaque": lambda: gf.sam(_inner(), gf.chain(gf.normalize(), gf.sgd(0.05)), opaque_mode=True),
    "schedule_free_sgd-warmup": lambda: gf.schedule_free_sgd(0.1, warmup_steps=2, weight_decay=0.01),
    "schedule_free_adamw-half": lambda: gf.schedule_free_adamw(0.1, 3, state_dtype=jnp.bfloat16),
    "lars-mask": lambda: gf.lars(
        0.1, 0.01, trust_ratio_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p), nesterov=True
    ),
    "adafactor-factored": lambda: gf.adafactor(
        0.1, min_dim_size_to_factor=2, momentum=0.9, weight_decay_rate=0.01
    ),
    "adafactor-given_decay": lambda: gf.chain(
        gf.scale_by_factored_rms(min_dim_size_to_factor=1, decay_rate_fn=lambda step, rate: 0.9),
        gf.scale(-0.1),
    ),
    "partition-selectors": lambda: gf.partition(
        {gf.ndim(2) & ~gf.size(at_least=10**6): gf.adamw(0.1, mask=gf.ndim(2)), "**": gf.sgd(0.1)}
    ),
    "masked-selector": lambda: gf.masked(
        _inner(), ~gf.paths("**/bias", "**/table", "**/key", required=False)
    ),
    "prodigy-official": lambda: gf.prodigy(
        beta3=0.9,
        weight_decay=0.1,
        safeguard_warmup=True,
        weight_decay_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
        use_bias_correction=False,
    ),
    "dadapt_adamw-official": lambda: gf.dadapt_adamw(weight_decay=0.1, use_bias_correction=False),
    "polyak_sgd-positive": lambda: gf.polyak_sgd(0.5, 0.5, f_min=1.0, eps=0.1, variant="sps+"),
    "muon-adaptive": lambda: gf.muon(
        0.1, 2 * ((3.4445, -4.775, 2.0315),), adaptive=True, nesterov=False, consistent_rms=0.2
    ),
    "muon-torch": lambda: gf.muon(0.1, "polar_express", weight_decay=0.01, bias_correction=False),
    "muon-spectral": lambda: gf.muon(0.1, "cubic", preconditioning="spectral"),
    "muon-aol": lambda: gf.muon(0.1, ns_steps=4, preconditioning="aol"),
    "muon-schatten": lambda: gf.muon(0.1, ns_steps=4, preconditioning="schatten"),
    "neuron_norm-longer": lambda: gf.masked(gf.scale_by_neuron_norm(axis="longer"), gf.ndim(2)),
    "kron-half": lambda: gf.kron(0.1, preconditioner_update_probability=0.5, memory_save_mode="one_diag"),
    "adamuon-unsigned": lambda: gf.adamuon(0.1, weight_decay=0.01, signed=False),
    "scion-roles": lambda: gf.scion(
        0.1, norms={gf.ndim(2): "sign"}, scales={gf.ndim(1): 2.0}, constrained=True
    ),
    "scion-inputs": lambda: gf.scion(0.1, norms={gf.ndim(2): "inputs"}),
    "scion-outputs": lambda: gf.scion(0.1, norms={gf.ndim(2): "outputs"}),
    "shampoo-2018": lambda: gf.shampoo(0.1, eps=1e-2),
    "shampoo-grafted": lambda: gf.shampoo(
        0.1, 0.9, 0.95, 1e-2, precondition_frequency=2, grafting="adam", start_step=1, block_size=2
    ),
    "shampoo-one_sided": lambda: gf.shampoo(0.1, 0.9, 0.95, 1e-2, one_sided=True),
    "soap-refresh_first": lambda: gf.soap(0.1, eps=1.0, refresh_first=True),
    "soap-whitened": lambda: gf.soap(0.1, eps=1e-2, precondition_frequency=2, whitened=True),
    "soap-matrices": lambda: gf.soap(0.1, eps=1e-2, precondition_frequency=2, matrices=gf.hidden_matrices()),
    "momo-adapted": lambda: gf.momo(0.5, lower_bound=-1.0, weight_decay=0.1, adapt_lower_bound=True),
    "momo_adam-adapted": lambda: gf.momo_adam(
        0.5, lower_bound=-1.0, weight_decay=0.1, adapt_lower_bound=True
    ),
    "dog-distance": lambda: gf.dog(init_step=("distance", 0.01), weight_decay=0.1),
    "dog-learning_rate": lambda: gf.dog(0.5, init_step=("learning_rate", 0.01)),
    "dowg-distance": lambda: gf.dowg(0.5, init_estim_sq_dist=0.1, weight_decay=0.1),
    "cocob-decay": lambda: gf.cocob(
        alpha=2.0, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    ),
    "mechanize-polyak": lambda: gf.mechanize(gf.polyak_sgd(), weight_decay=0.0, s_init=0.1, num_betas=2),
    "sophia-each_step": lambda: gf.sophia(0.1, update_interval=1, clip_threshold=None, gamma=1.0),
    "galore-projected": lambda: gf.galore(0.1, rank=2, update_proj_gap=2, scale=0.25, weight_decay=0.01),
    "galore-lion": lambda: gf.galore(0.1, 1, base_optimizer=gf.scale_by_lion()),
    "lbfgs-backtracking": lambda: gf.lbfgs(
        0.5, 3, linesearch=gf.scale_by_backtracking_linesearch(10, store_grad=True)
    ),
    "lbfgs-rate": lambda: gf.lbfgs(0.1, scale_init_precond=False, linesearch=None),
    "zoom-exact": lambda: gf.chain(
        gf.scale(-1.0),
        gf.scale_by_zoom_linesearch(10, 5.0, approx_dec_rtol=None, initial_guess_strategy="one"),
    ),
    "with_metrics-groups": lambda: gf.with_metrics(_inner(), {"matrices": gf.ndim(2), "rest": ~gf.ndim(2)}),
    "step_on_hyperball-adam": lambda: gf.chain(gf.scale_by_adam(), gf.step_on_hyperball(0.01)),
    "step_on_hyperball-units": lambda: gf.masked(gf.step_on_hyperball(0.1, axis=0), gf.ndim(2)),
    "step_relative-units": lambda: gf.masked(gf.step_relative(0.1, axis=0), gf.ndim(2)),
    "step_with_radial_brake-decay": lambda: gf.step_with_radial_brake(0.1, weight_decay=0.1),
    "step_with_decay-stepped": lambda: gf.step_with_decay(0.1, 0.01, gf.ndim(2), stepped=True),
    "step_with_decay-corrected": lambda: gf.step_with_decay(
        0.1, 0.01, kind="corrected", peak_rate=0.2, cautious=True
    ),
    "cautious-mean": lambda: gf.chain(gf.cautious(gf.trace(0.9), "mean"), gf.scale_by_learning_rate(0.1)),
    "cautious-none": lambda: gf.cautious(gf.trace(0.9), "none"),
    "stable_adamw-mask": lambda: gf.stable_adamw(0.1, mask=gf.ndim(2)),
    "adamp-projected": lambda: gf.adamp(0.1, weight_decay=0.1, mask=gf.ndim(2), delta=10.0, nesterov=True),
    "fista-search": lambda: gf.fista(penalty=gf.elastic_net_penalty(0.01, 0.1)),
    "asgd-averaging": lambda: gf.asgd(0.1, t0=1.0),
    "sam-adaptive": lambda: gf.sam(gf.sgd(0.1), gf.chain(gf.adaptive_normalize(), gf.sgd(0.05))),
    "apollo-projected": lambda: gf.apollo(0.1, 2, 2, 0.5, 0.01),
    "apollo-mini": lambda: gf.apollo(0.1, 1, scale=2.0, tensor_wise=True),
    "adagc-warm": lambda: gf.adagc(warmup_steps=1),
    "zclip-warm": lambda: gf.zclip(warmup_steps=1),
    "quantize_state-4": lambda: gf.quantize_state(_inner(), 4, block=4, min_size=1, rounding="nearest"),
    "master_params-split": lambda: gf.master_params(_inner(), "split"),
    "apply_if_finite-state": lambda: gf.apply_if_finite(_inner(), 2, check_state=True),
    "masked-zero": lambda: gf.masked(
        _inner(), lambda p: jax.tree.map(lambda x: x.ndim > 1, p), elsewhere="zero"
    ),
}


def quadratic(params: Any) -> jax.Array:
    """Half the squared norm of the parameters: the loss of the laws, in float32 at least."""
    return 0.5 * gf.tree.norm(params, squared=True)


# Extra arguments of update, by name, for the transformations that take them.
EXTRA: dict[str, Callable[[Any, Any], Any]] = {
    "value": lambda params, grads: quadratic(params),
    "grad": lambda params, grads: grads,
    "value_fn": lambda params, grads: quadratic,
    "grad_fn": lambda params, grads: lambda params, i: grads,
    "obj_fn": lambda params, grads: quadratic,
    "max_logits": lambda params, grads: jnp.asarray([150.0]),
}

# Cases that leave out vectors, of whatever dtype, before a stage sees them.
LEAVES_VECTORS_OUT = {
    "masked", "masked-zero", "masked-selector", "selective_transform", "scale_by_path",
    "scale_by_muon", "scale_by_shape", "orthogonalize", "scale_by_neuron_norm", "neuron_norm-longer",
    "step_on_hyperball-units", "step_relative-units", "scale_by_splus", "scale_by_adamuon",
    "scale_by_dion2", "step_by_muown",
}  # fmt: skip

# (law, case) -> why the case departs from the law. Strict: a departure that is mended must be taken out.
_INNER_STEPS = "the stages inside count the steps that they take, and they take one in k calls"
_READ_BACK = (
    "a plain b2 >= 0.5 reads the momentum back from the new one, a traced one cannot: equal but for "
    "rounding, which a smooth sign shows"
)
_RADIAL = (
    "the law's gradients are the parameters, so that the neurons' directions get nothing but rounding, which "
    "an orthogonal factor makes as large as any gradient"
)
_COMPLEX = "a complex average is refused by name: split_real_and_imaginary codes its parts"
_SUMS_OF_PRODUCTS = (
    "a sum of outer products forgets nothing; beside an outlier's square float32 holds no other direction"
)
_LANDS = (
    "rounded to bfloat16, a step that is as large as the parameter misses the number it is meant to reach"
)
_NO_COTANGENTS = "jax has no cotangents in the memory of a host"
DEPARTURES: dict[tuple[str, str], str] = {
    ("gradients of hyper-parameters", "offload_state"): _NO_COTANGENTS,
    ("gradients through the update", "offload_state"): _NO_COTANGENTS,
    ("dtype of updates", "master_params"): _LANDS,
    ("dtype of updates", "master_params-split"): _LANDS,
    ("a mesh changes nothing", "step_by_muown"): _RADIAL,
    ("a mesh changes nothing", "muown"): _RADIAL,
    ("a mesh changes nothing", "soap_muon"): (
        "rounding splits equal singular values of a rotated gradient, and sums over devices round otherwise"
    ),
    ("complex", "quantize_state"): _COMPLEX,
    ("complex", "quantize_state-4"): _COMPLEX,
    ("complex", "cast_state"): _COMPLEX,
    ("dtypes asked for", "quantize_state"): "an average that was asked for in another dtype is coded, too",
    ("dtypes asked for", "quantize_state-4"): "an average that was asked for in another dtype is coded, too",
    ("dtypes asked for", "shampoo-2018"): "without momentum there is no moment to hold",
    ("one huge gradient is forgotten", "shampoo-one_sided"): _SUMS_OF_PRODUCTS,
    ("tunable is plain bit for bit, float32", "lion-smooth"): _READ_BACK,
    ("tunable is plain bit for bit, float32", "lion-refined"): _READ_BACK,
    ("schedules follow the step", "MultiSteps"): _INNER_STEPS,
    ("schedules follow the step", "lookahead-reset"): (
        "the fast optimizer's state starts again at each synchronization, and with it its count of steps"
    ),
    ("schedules follow the step", "outer"): _INNER_STEPS,
    ("schedules follow the step", "sam"): _INNER_STEPS,
    ("schedules follow the step", "sam-three"): _INNER_STEPS,
    ("schedules follow the step", "gsam"): _INNER_STEPS,
    ("schedules follow the step", "looksam"): _INNER_STEPS,
    ("schedules follow the step", "bsam"): "a step takes two calls, and schedules count steps",
    ("schedules follow the step", "sam-adaptive"): _INNER_STEPS,
    ("schedules follow the step", "conditionally_transform"): _INNER_STEPS,
    ("schedules follow the step", "conditionally_mask"): _INNER_STEPS,
    ("schedules follow the step", "process"): _INNER_STEPS,
    ("schedules follow the step", "add_mean_variance_to_opt"): _INNER_STEPS,
}


# What alone makes float64 depart, too: (the part of float32, why, sizes of gradients, cases). Strict, and
# proved by `python -m pytest -m departures`.
_DRAWS = ("draws", "noise and probes in float32 are other numbers")
_SMALLER = ("parameters", "a step is shorter than half a rounding of the parameter that it is added to")
_STEPS = ("rounding", "updates are differences of parameters in the state, which shorter steps do not move")
_CANCELLING = ("rounding", "the loss less an inner product cancels, and the rest decides on the step")
_DECIDING = ("rounding", "one trial more is accepted, by a rounding of the loss")
_DIRECTIONS = ("rounding", "beside an outlier, or without a large eps, some directions hold only rounding")
_VANISHED = ("range", "a square, a variance, or a curvature is zero")
_CAPPED = ("range", "a moment, or a sum of squares that forgets nothing, is as large as float32 allows")
_FLOAT64_DEPARTURES = (
    (_DRAWS, "1e-45 1e-30 1e-8 1 spike", "add_noise noisy_sgd bsam"),
    (_DRAWS, "1e-45 1e-30 1e-8 1 1e8 1e37 spike", "differentially_private_aggregate dpsgd"),
    (_DRAWS, "1e-30 1e-8 1 1e8", "kron scale_by_kron kron-half"),
    (_SMALLER, "1e-45", "step_on_hyperball step_on_hyperball-adam step_on_hyperball-units"),
    (_STEPS, "1e-8", "lookahead step_with_radial_brake schedule_free schedule_free_sgd"),
    (_STEPS, "1e-45 1e-30", "muown step_by_muown"),
    (_CANCELLING, "1e8", "momo"),
    (_CANCELLING, "1e8 1e37 spike", "momo_adam"),
    (_DECIDING, "1e-8", "momo_adam-adapted lbfgsb zoom-exact"),
    (_DECIDING, "1e-8 spike", "scale_by_backtracking_linesearch lbfgs-backtracking"),
    (_DECIDING, "1e-30 1e8 spike", "scale_by_zoom_linesearch"),
    (_DECIDING, "1 spike", "fista-search"),
    (_DIRECTIONS, "1e8 1e37", "shampoo-grafted soap-refresh_first soap-whitened"),
    (_DIRECTIONS, "1e37", "scale_by_splus splus soap_muon"),
    (_DIRECTIONS, "1e37 spike", "scale_by_soap soap soap-matrices stacked"),
    (_VANISHED, "1e-30", "prodigy prodigy-official shampoo-one_sided shampoo-grafted scale_by_splus splus"),
    (_VANISHED, "1e-30", "dadapt_adamw dog-learning_rate momo_adam zoom-exact"),
    (_VANISHED, "1e-30 1e-8", "zclip"),
    (_VANISHED, "1e-30 1e-8 1 spike", "zclip-warm"),
    (_CAPPED, "1e37", "dadapt_adamw dadapt_adamw-official dog dog-distance dog-learning_rate scale_by_dog"),
    (_CAPPED, "1e37", "dowg dowg-distance scale_by_dowg scale_by_distance_over_gradients"),
    (_CAPPED, "1e37", "schedule_free schedule_free_sgd schedule_free_sgd-warmup muown step_by_muown"),
    (_CAPPED, "1e37", "adagrad adagrad-from_zero scale_by_rss sm3 scale_by_sm3 madgrad scale_by_madgrad"),
    (_CAPPED, "1e37", "apollo-mini momo momo-adapted lbfgs"),
    (_CAPPED, "1e37", "scale_by_backtracking_linesearch scale_by_zoom_linesearch"),
    (_CAPPED, "1e37 spike", "kron scale_by_kron lbfgsb lbfgs-rate"),
    (_CAPPED, "spike", "kron-half shampoo-2018 shampoo-grafted scale_by_splus splus soap_muon"),
    (_CAPPED, "spike", "soap-refresh_first soap-whitened"),
)
FLOAT64_REASONS: dict[tuple[str, str], set[str]] = {}
FLOAT64_DEPARTURES: dict[str, set[str]] = {}
for (_part, _), _sizes, _cases in _FLOAT64_DEPARTURES:
    for _case in _cases.split():
        FLOAT64_REASONS.setdefault((_case, _part), set()).update(_sizes.split())
        FLOAT64_DEPARTURES.setdefault(_case, set()).update(_sizes.split())


def _default(name: str) -> Any:
    factory = OWN_FACTORIES[name]
    required = [
        p.name
        for p in factory.parameters.values()
        if p.default is inspect.Parameter.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    missing = [r for r in required if r not in ARGUMENTS]
    if missing:
        raise LookupError(f"tests/specs.py needs a value for {missing} of {name}")
    return factory(**{r: ARGUMENTS[r] for r in required})


def cases() -> dict[str, Callable[[], Any]]:
    """Every factory of transformations at its defaults, and the variants."""
    names = [name for name, factory in OWN_FACTORIES.items() if factory.kind == "transformation"]
    defaults = {name: EXAMPLES.get(name, lambda name=name: _default(name)) for name in sorted(names)}
    return {**defaults, **VARIANTS}


CASES = cases()

# Cases on which a law tries everything that it tries on the others in one way: a rule, assemblies, every
# kind of container and wrapper, and a state of each form.
REPRESENTATIVES = (
    "scale_by_adam",  # moments and a count
    "adamw",  # an assembly that reads the parameters
    "muon",  # stages for some leaves, chosen by shape
    "lbfgs",  # a history, and a function among the extra arguments
    "dog",  # numbers for the whole tree
    "add_noise",  # a key
    "chain", "partition", "masked",
    "MultiSteps", "apply_if_finite",  # branches
    "flatten",  # the stage inside sees another tree
    "schedule_free",  # parameters in the state
)  # fmt: skip


def over_all(law: str, names: Iterator[str] | None = None) -> Any:
    """Parametrises a test over the cases; the law's departures are strict expected failures."""
    parameters = []
    for name in CASES if names is None else names:
        reason = DEPARTURES.get((law, name))
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        parameters.append(pytest.param(name, id=name, marks=marks))
    return pytest.mark.parametrize("case", parameters)


def build(case: str) -> Any:
    """The transformation of a case."""
    return CASES[case]()


def _own_code(case: str, counts: Callable[[Any], bool]) -> set[Any]:
    """The stages of a case that count and are not assembled from others, by what chooses their path."""

    def path(value: Any) -> Any:
        if isinstance(value, gf.GradientTransformation | float):
            return None  # a float chooses no path, and stages inside are stages of the case
        if isinstance(value, tuple | list):
            paths = tuple(map(path, value))
            return paths if any(paths) else None  # nor does the number of a chain's stages
        if isinstance(value, dict):
            return tuple((key, path(item)) for key, item in value.items())
        return repr(value)

    return {
        (stage.expression.name, path(dict(stage.expression.arguments)))
        for stage in stages_of(build(case))
        if not _is_assembled(stage) and counts(stage)
    }


def _is_assembled(stage: Any) -> bool:
    """Whether a factory returned a transformation that is not one of its arguments."""
    given = [child.value.expression for child in children(stage.expression.arguments)]
    return len(stage.children) == 1 and all(stage.children[0].expression is not one for one in given)


def _parts(counts: Callable[[Any], bool] = lambda stage: True) -> list[str]:
    """Cases enough for every stage that counts, along every path in its code, to be in one; the simplest."""
    seen: set[Any] = set()
    chosen = set(REPRESENTATIVES)
    own = {case: _own_code(case, counts) for case in CASES}
    for case in sorted(CASES, key=lambda case: len(_own_code(case, lambda stage: True))):
        if not own[case] <= seen:
            chosen.add(case)
            seen |= own[case]
    return [case for case in CASES if case in chosen]


# For laws that compile much: a chain adds nothing to the stages that it is assembled from.
PARTS = _parts()

# For the law of packed trees: what is not packable gets the tree unpacked, by one mechanism for all stages.
PACKABLE_PARTS = _parts(lambda stage: stage.packable)


def leaf_policy(case: str) -> str:
    """Which leaves the stages of a case take: "any", "real" or "inexact"."""
    policies = {stage.leaves for stage in stages_of(build(case))} - {None}
    return next((policy for policy in ("real", "inexact") if policy in policies), "any")

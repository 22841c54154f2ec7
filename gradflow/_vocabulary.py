"""What torch, Keras and older versions of Optax call things, and what they are called here.

The hints of error messages read these tables. A test checks that every suggested name exists.
"""

from collections.abc import Mapping
from typing import Any

# Arguments with another name here; in each row the spellings of one argument.
_RENAMED = {
    "learning_rate": "lr learning_rates base_lr step_size rate eta alpha",
    "b1": "beta1 beta_1 momentum",
    "b2": "beta2 beta_2",
    "eps": "epsilon",
    "weight_decay": "wd decay_rate l2 lambd weight_decay_rate",
    "decay": "alpha rho beta",
    "momentum": "beta mu beta1",
    "mask": "weight_decay_mask decay_mask exclude_from_weight_decay",
    "max_norm": "clipnorm global_clipnorm max_grad_norm",
    "max_delta": "clipvalue clip_value",
    "init_value": "lr learning_rate initial_learning_rate init_lr base_lr",
    "peak_value": "max_lr peak_lr lr learning_rate",
    "end_value": "eta_min min_lr end_learning_rate end_lr",
    "decay_steps": "T_max total_steps num_steps steps max_steps",
    "warmup_steps": "num_warmup_steps warmup",
    "decay_rate": "gamma",
    "transition_steps": "step_size total_steps num_steps steps decay_steps",
    "every_k_schedule": "accumulation_steps gradient_accumulation_steps every_k k",
    "seed": "rng random_state",
}
_SPELLINGS: dict[str, list[str]] = {}
for _name, _others in _RENAMED.items():
    for _other in _others.split():
        _SPELLINGS.setdefault(_other, []).append(_name)

# Arguments that have no counterpart, and what to do instead.
_ARGUMENTS = {
    "betas": "Pass b1 and b2, one by one: b1=0.9, b2=0.999.",
    "params": "A transformation holds no parameters: pass them to tx.init(params).",
    "parameters": "A transformation holds no parameters: pass them to tx.init(parameters).",
    "maximize": "To maximize, negate the loss.",
    "amsgrad": "Use gradflow.amsgrad.",
    "centered": "Use gradflow.rmsprop(learning_rate, centered=True).",
    "decoupled_weight_decay": "Optimizers whose names end in w decouple it, as in nadamw.",
    "foreach": "Leave it out: XLA fuses the update.",
    "fused": "Leave it out: XLA fuses the update.",
    "capturable": "Leave it out: the update is a pure function that jax.jit compiles.",
    "differentiable": "Leave it out: updates are differentiable.",
    "clipnorm": "Put clip_by_block_rms or clip_by_global_norm before the optimizer in a chain.",
    "global_clipnorm": "Put clip_by_global_norm before the optimizer in a chain.",
    "clipvalue": "Put clip before the optimizer in a chain.",
    "max_grad_norm": "Put clip_by_global_norm before the optimizer in a chain.",
    "use_ema": "Wrap the optimizer in with_param_ema.",
    "ema_momentum": "Wrap the optimizer in with_param_ema.",
    "gradient_accumulation_steps": "Wrap the optimizer in MultiSteps.",
    "last_epoch": "A schedule is a function of the step count, which the state keeps.",
    "optimizer": "A schedule knows no optimizer: pass it as the learning rate.",
    "weight_decay": (
        "Put add_decayed_weights(weight_decay) before the optimizer in a chain: "
        "chain(add_decayed_weights(1e-4), sgd(0.1)) is what torch computes."
    ),
}

# Public names: what to use instead, after "Did you mean".
_NAMES = {
    "ASGD": "asgd", "Adadelta": "adadelta", "Adafactor": "adafactor", "Adagrad": "adagrad", "Adam": "adam",
    "AdamW": "adamw", "Adamax": "adamax", "LBFGS": "lbfgs", "Lamb": "lamb", "Lion": "lion", "Muon": "muon",
    "NAdam": "nadam", "Nadam": "nadam", "RAdam": "radam", "RMSprop": "rmsprop", "Rprop": "rprop",
    "SGD": "sgd", "SparseAdam": "adam",
    "BCEWithLogitsLoss": "sigmoid_binary_cross_entropy",
    "BinaryCrossentropy": "sigmoid_binary_cross_entropy",
    "CTCLoss": "ctc_loss",
    "CategoricalCrossentropy": "softmax_cross_entropy",
    "CosineEmbeddingLoss": "cosine_distance",
    "CosineSimilarity": "cosine_similarity",
    "CrossEntropyLoss": "softmax_cross_entropy_with_integer_labels",
    "HingeEmbeddingLoss": "hinge_loss",
    "Huber": "huber_loss",
    "HuberLoss": "huber_loss",
    "KLDivLoss": "kl_divergence",
    "MSELoss": "squared_error",
    "MeanSquaredError": "squared_error",
    "SmoothL1Loss": "huber_loss",
    "SparseCategoricalCrossentropy": "softmax_cross_entropy_with_integer_labels",
    "TripletMarginLoss": "triplet_margin_loss",
    "binary_cross_entropy": "sigmoid_binary_cross_entropy",
    "binary_cross_entropy_with_logits": "sigmoid_binary_cross_entropy",
    "bce_with_logits": "sigmoid_binary_cross_entropy",
    "cross_entropy": "softmax_cross_entropy_with_integer_labels",
    "cross_entropy_loss": "softmax_cross_entropy_with_integer_labels",
    "kl_div": "kl_divergence",
    "mean_squared_error": "squared_error",
    "mse": "squared_error",
    "mse_loss": "squared_error",
    "smooth_l1_loss": "huber_loss",
    "sparse_categorical_crossentropy": "softmax_cross_entropy_with_integer_labels",
    "categorical_crossentropy": "softmax_cross_entropy",
    "ConstantLR": "constant_schedule",
    "CosineAnnealingLR": "cosine_decay_schedule",
    "CosineAnnealingWarmRestarts": "sgdr_schedule",
    "CosineDecay": "cosine_decay_schedule",
    "CosineDecayRestarts": "sgdr_schedule",
    "ExponentialDecay": "exponential_decay",
    "ExponentialLR": "exponential_decay",
    "LinearLR": "linear_schedule",
    "MultiStepLR": "piecewise_constant_schedule",
    "OneCycleLR": "cosine_onecycle_schedule",
    "PiecewiseConstantDecay": "piecewise_constant_schedule",
    "PolynomialDecay": "polynomial_schedule",
    "PolynomialLR": "polynomial_schedule",
    "ReduceLROnPlateau": "reduce_on_plateau",
    "SequentialLR": "join_schedules",
    "StepLR": "exponential_decay",
    "cosine_annealing": "cosine_decay_schedule",
    "cosine_schedule": "cosine_decay_schedule",
    "exponential_decay_schedule": "exponential_decay",
    "get_cosine_schedule_with_warmup": "warmup_cosine_decay_schedule",
    "get_linear_schedule_with_warmup": "join_schedules",
    "additive_weight_decay": "add_decayed_weights",
    "AdditiveWeightDecayState": "AddDecayedWeightsState",
    "clip_grad_norm": "clip_by_global_norm",
    "clip_grad_norm_": "clip_by_global_norm",
    "clip_grad_value_": "clip",
    "clip_by_value": "clip",
    "clip_by_norm": "clip_by_global_norm",
    "weight_decay": "add_decayed_weights",
    "gradient_accumulation": "MultiSteps",
    "multi_steps": "MultiSteps",
    "ExponentialMovingAverage": "with_param_ema",
    "AveragedModel": "with_param_ema",
    "optim": "optimizers",
    "lr_scheduler": "schedules",
    "contrib": "compat",
}  # fmt: skip

# Names that mean something else here, or nothing.
_EXPLAINED = {
    "l1_loss": "Write jax.numpy.abs(predictions - targets).",
    "L1Loss": "Write jax.numpy.abs(predictions - targets).",
    "nll_loss": "softmax_cross_entropy_with_integer_labels takes logits.",
    "NLLLoss": "softmax_cross_entropy_with_integer_labels takes logits.",
    "LambdaLR": "Any function of the step count is a schedule: pass it as the learning rate.",
    "LRScheduler": "Any function of the step count is a schedule: pass it as the learning rate.",
    "Optimizer": "The type of every optimizer is gradflow.GradientTransformation.",
    "TrainState": "gradflow.make_step(loss_fn, tx) makes a step; flax's TrainState takes tx as it is.",
}

# How functions are called, for hints about a call with other arguments.
CALLS = {
    "apply_updates": "params = apply_updates(params, updates)",
    "load_state_dict": "state, report = load_state_dict(tx, params, saved)",
    "make_step": "step = make_step(loss_fn, tx)",
    "minimize": "minimize(loss_fn, params, tx)",
    "replace": "replace(tx, {'learning_rate': 1e-3})",
    "set_hyperparams": "set_hyperparams(state, {'learning_rate': 1e-3})",
}

# Methods that optimizers of other libraries have.
METHODS = {
    "step": (
        "A transformation keeps no parameters: updates, state = tx.update(grads, state, params), then "
        "params = gradflow.apply_updates(params, updates). gradflow.make_step(loss_fn, tx) does both"
    ),
    "zero_grad": "Gradients are values that jax.grad returns: there is nothing to reset",
    "backward": "Gradients come from jax.grad(loss_fn)(params)",
    "minimize": "Call gradflow.minimize(loss_fn, params, tx)",
    "state_dict": "Call gradflow.state_dict(tx, state)",
    "load_state_dict": "Call gradflow.load_state_dict(tx, params, saved)",
    "param_groups": "Groups of parameters are gradflow.partition({pattern: optimizer, ...})",
    "add_param_group": "Groups of parameters are gradflow.partition({pattern: optimizer, ...})",
    "lr": "A transformation's parts are read with gradflow.addresses(tx)",
    "learning_rate": "A transformation's parts are read with gradflow.addresses(tx)",
    "state": "A transformation keeps no state: it is what tx.init(params) returns",
    "target": "A transformation keeps no parameters: the training loop does",
}
for _other in ("apply_gradients", "apply_gradient", "apply", "apply_updates"):
    METHODS[_other] = METHODS["step"]
METHODS["compute_gradients"] = METHODS["backward"]


def meant_arguments(name: str) -> list[str]:
    """The names that an argument of another library may have here; empty for an unknown one."""
    return _SPELLINGS.get(name, [])


def argument_hint(name: str, known: Mapping[str, Any]) -> str:
    """The hint for an argument that a function with the arguments `known` does not have, or no text."""
    meant = [other for other in meant_arguments(name) if other in known]
    if meant:
        return f"It is called '{meant[0]}' here."
    return _ARGUMENTS.get(name, "")


def meant_name(name: str) -> str | None:
    """What a public name of another library is called here; None for an unknown one."""
    return _NAMES.get(name)


def explanation(name: str) -> str:
    """What to do instead of a public name of another library that has no counterpart, or no text."""
    return _EXPLAINED.get(name, "")

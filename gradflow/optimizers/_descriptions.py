"""What each named optimizer is and when to try it: the parts of its docstring that no stage has."""

import inspect
from typing import Any, NamedTuple

from gradflow._expressions._docstrings import compose, printed


class About(NamedTuple):
    """One optimizer for a reader who does not know it, and a call that prints as itself."""

    what: str
    when: str
    example: str


ABOUT = {
    "acprop": About(
        "ACProp divides the gradient by the averaged deviation of earlier gradients from their mean.",
        "where Adam is unstable early in training; the denominator lags one step behind the gradient.",
        "gf.acprop(0.001)",
    ),
    "adabelief": About(
        "AdaBelief is Adam that divides by how far gradients are from their own average.",
        "where Adam generalizes worse than momentum, as in image classification and GANs.",
        "gf.adabelief(0.001)",
    ),
    "adadelta": About(
        "AdaDelta scales each step by the ratio of averaged squared steps to averaged squared gradients.",
        "to reproduce older results; it needs little tuning of the rate.",
        "gf.adadelta(learning_rate=1.0)",
    ),
    "adafactor": About(
        "Adafactor is Adam that keeps row and column sums of the squared gradients instead of all of them.",
        "for large transformers whose optimizer state does not fit.",
        "gf.adafactor(learning_rate=0.01)",
    ),
    "adagrad": About(
        "Adagrad divides by the root of the sum of all squared gradients, so its steps shrink.",
        "for sparse gradients, such as those of embeddings, and for convex problems.",
        "gf.adagrad(0.1)",
    ),
    "adam": About(
        "Adam divides the averaged gradient by the root of its averaged square, number by number.",
        "first, for almost every network; `adamw` where weights should decay.",
        "gf.adam(0.001)",
    ),
    "adamuon": About(
        "AdaMuon is Muon with Adam's second moment of the orthogonal factor.",
        "in the place of AdamW, at its learning rates, for networks with large matrices.",
        "gf.adamuon(0.001, weight_decay=0.1)",
    ),
    "adamw": About(
        "AdamW is Adam with weight decay that does not pass through the moments.",
        "first, for transformers and wherever weight decay regularizes.",
        "gf.adamw(0.001, weight_decay=0.1)",
    ),
    "adam_mini": About(
        "Adam-mini is AdamW with one second moment for each block of parameters.",
        "to halve the state of AdamW at the same rates.",
        "gf.adam_mini(0.001)",
    ),
    "adamax": About(
        "Adamax is Adam that divides by the largest recent gradient instead of a root of averages.",
        "for gradients with rare large entries, such as those of embeddings.",
        "gf.adamax(0.002)",
    ),
    "adamaxw": About(
        "AdamaxW is Adamax with decoupled weight decay.",
        "like `adamax`, where weights should decay.",
        "gf.adamaxw(0.002)",
    ),
    "adamp": About(
        "AdamP is AdamW without the part of the step that only grows scale-invariant weights.",
        "for networks with batch or layer normalization whose weight norms grow.",
        "gf.adamp(0.001)",
    ),
    "sgdp": About(
        "SGDP is gradient descent with momentum, without the part that only grows scale-invariant weights.",
        "for image networks with normalization that train with momentum.",
        "gf.sgdp(0.1)",
    ),
    "adan": About(
        "Adan is Adam with Nesterov momentum estimated from differences of gradients.",
        "for vision and language models, at higher rates than AdamW's.",
        "gf.adan(0.001)",
    ),
    "ademamix": About(
        "AdEMAMix is AdamW with a second, much slower average of gradients added to the first.",
        "for long runs of language models; give its slow average a warm-up.",
        "gf.ademamix(0.001)",
    ),
    "adopt": About(
        "ADOPT is Adam whose denominator leaves out the current gradient, so that it converges for any b2.",
        "where Adam with a high b2 diverges.",
        "gf.adopt(0.001)",
    ),
    "amsgrad": About(
        "AMSGrad is Adam whose denominator never falls.",
        "where Adam's rare large steps undo progress.",
        "gf.amsgrad(0.001)",
    ),
    "apollo": About(
        "APOLLO is AdamW whose scaling comes from a random projection of the gradient.",
        "for large language models when memory is short.",
        "gf.apollo(0.01)",
    ),
    "asgd": About(
        "Averaged gradient descent: its points are averaged after step `t0`, for `eval_params`.",
        "for convex problems with noisy gradients.",
        "gf.asgd(0.01)",
    ),
    "bsam": About(
        "Bayesian SAM looks for flat minima and learns how far each weight may move in them.",
        "where SAM helps and the weights' uncertainty is of use; a step takes two gradients.",
        "gf.bsam(0.5, 50000)",
    ),
    "came": About(
        "CAME is Adafactor with a momentum that is trusted where it agrees with the gradients.",
        "for large transformers where Adafactor saves memory but trains worse.",
        "gf.came(0.0002)",
    ),
    "cautious_adamw": About(
        "Cautious AdamW leaves out the entries of a step whose sign is against the gradient.",
        "in the place of AdamW, at the same arguments.",
        "gf.cautious_adamw(0.001)",
    ),
    "cautious_lion": About(
        "Cautious Lion leaves out the entries of a step whose sign is against the gradient.",
        "in the place of Lion, at the same arguments.",
        "gf.cautious_lion(0.0001)",
    ),
    "cocob": About(
        "COCOB bets on coins: step sizes follow from a gambler's wealth, without a learning rate to tune.",
        "for a baseline without tuning.",
        "gf.cocob()",
    ),
    "dadapt_adamw": About(
        "D-Adaptation is AdamW whose rate is a growing lower bound of the distance to the solution.",
        "where a learning rate cannot be searched for; leave the rate at 1.",
        "gf.dadapt_adamw()",
    ),
    "dion2": About(
        "Dion2 is Muon that orthogonalizes a quarter of each matrix's rows at each step.",
        "where Muon's products cost too much, as for very large or sharded matrices.",
        "gf.dion2(0.01, weight_decay=0.01)",
    ),
    "dog": About(
        "DoG: the step size is the distance from the start over the root of summed squared gradients.",
        "for fine-tuning without a search for the rate; evaluate the averaged parameters.",
        "gf.dog()",
    ),
    "dowg": About(
        "DoWG is DoG whose gradients are weighted by the distance, which adapts to smooth problems too.",
        "like `dog`.",
        "gf.dowg()",
    ),
    "dpsgd": About(
        "DP-SGD clips the gradient of every example and adds noise, for differential privacy.",
        "for training on private data; it takes one gradient per example.",
        "gf.dpsgd(0.1, 1.0, 1.1, key=0)",
    ),
    "fista": About(
        "FISTA is accelerated gradient descent for a smooth convex loss plus a penalty such as the lasso's.",
        "for regression with penalties on the full data; `minimize` uses it for `prox`.",
        "gf.fista(learning_rate=0.1)",
    ),
    "fromage": About(
        "Fromage scales each layer's step by the layer's norm, and shrinks the weights a little.",
        "where one learning rate should serve all layers, as in GANs.",
        "gf.fromage(0.01)",
    ),
    "galore": About(
        "GaLore is Adam on a low-rank projection of the gradients of matrices.",
        "for large language models when the state of Adam does not fit.",
        "gf.galore(0.001)",
    ),
    "kron": About(
        "PSGD Kron whitens gradients with a triangular preconditioner for each side of a matrix.",
        "for networks of matrices where steps are costly and fewer of them pay.",
        "gf.kron(0.001)",
    ),
    "lamb": About(
        "LAMB is AdamW whose step is scaled, layer by layer, by the norm of the weights.",
        "for batches of thousands of examples, as in the training of BERT.",
        "gf.lamb(0.001)",
    ),
    "lars": About(
        "LARS is momentum whose step is scaled, layer by layer, by the norm of the weights.",
        "for image networks with batches of thousands of examples.",
        "gf.lars(0.1)",
    ),
    "laprop": About(
        "LaProp divides the gradient by its scale first, and averages afterwards.",
        "where Adam diverges with a high b1 and a low b2.",
        "gf.laprop(0.0004)",
    ),
    "lbfgs": About(
        "L-BFGS estimates the curvature from recent steps and searches along each direction.",
        "for smooth problems without noise: fits, inverse problems, PINNs.",
        "gf.lbfgs()",
    ),
    "lbfgsb": About(
        "L-BFGS-B is L-BFGS for parameters between bounds.",
        "for smooth deterministic losses with limits on parameters; `minimize` uses it for `bounds`.",
        "gf.lbfgsb(lower=0.0, upper=1.0)",
    ),
    "lion": About(
        "Lion steps by the sign of a mixture of momentum and gradient: all numbers move equally far.",
        "for half of Adam's state; take a third to a tenth of AdamW's rate, and more decay.",
        "gf.lion(0.0001)",
    ),
    "madgrad": About(
        "MADGRAD averages all gradients since the start, divided by the cube root of their squares.",
        "for sparse problems and for image models where Adam generalizes worse than momentum.",
        "gf.madgrad(0.01)",
    ),
    "mars": About(
        "MARS is AdamW on gradients whose noise is reduced by the difference to the previous one.",
        "for language models, at higher rates than AdamW's.",
        "gf.mars(0.003)",
    ),
    "momo": About(
        "MoMo is momentum whose step size adapts to a lower bound of the loss.",
        "where the lowest possible loss is known, 0 say, and the rate is not.",
        "gf.momo()",
    ),
    "momo_adam": About(
        "MoMo-Adam is Adam whose step size adapts to a lower bound of the loss.",
        "like `momo`, for networks that train with Adam.",
        "gf.momo_adam()",
    ),
    "muon": About(
        "Muon replaces the momentum of a matrix by the nearest orthogonal one; AdamW takes other leaves.",
        "for hidden matrices of transformers; give embeddings and heads to AdamW.",
        "gf.muon(0.02)",
    ),
    "muown": About(
        "Muown is Muon for the directions of a matrix's neurons and Adam for their norms.",
        "where weights grow under Muon without weight decay.",
        "gf.muown(0.02)",
    ),
    "nadam": About(
        "NAdam is Adam with Nesterov momentum.",
        "in the place of Adam, often a little faster.",
        "gf.nadam(0.001)",
    ),
    "nadamw": About(
        "NAdamW is NAdam with decoupled weight decay.",
        "in the place of AdamW, often a little faster.",
        "gf.nadamw(0.001)",
    ),
    "normuon": About(
        "NorMuon is Muon whose rows are scaled to one size by a second moment for each neuron.",
        "for hidden matrices where Muon's neurons differ much in size.",
        "gf.normuon(0.02)",
    ),
    "novograd": About(
        "NovoGrad is Adam with one second moment for each layer.",
        "for speech models, with little state.",
        "gf.novograd(0.01)",
    ),
    "optimistic_adam_v2": About(
        "Optimistic Adam extrapolates Adam's step by its last change.",
        "for GANs and other games, where plain steps circle.",
        "gf.optimistic_adam_v2(0.001)",
    ),
    "optimistic_gradient_descent": About(
        "Optimistic gradient descent extrapolates the gradient by its last change.",
        "for games of two players, where plain steps circle.",
        "gf.optimistic_gradient_descent(0.1)",
    ),
    "polyak_sgd": About(
        "Gradient descent whose step is the loss above its minimum over the squared gradient.",
        "where the lowest possible loss is known and gradients have little noise.",
        "gf.polyak_sgd()",
    ),
    "prodigy": About(
        "Prodigy is Adam whose rate is a growing estimate of the distance to the solution.",
        "where a learning rate cannot be searched for; leave the rate at 1 and give it a schedule.",
        "gf.prodigy()",
    ),
    "radam": About(
        "RAdam is Adam that waits with its denominator until it has seen enough gradients.",
        "where Adam needs a warm-up and none is wanted.",
        "gf.radam(0.001)",
    ),
    "rmsprop": About(
        "RMSProp divides the gradient by the root of its averaged square.",
        "for reinforcement learning and recurrent networks.",
        "gf.rmsprop(0.001)",
    ),
    "rprop": About(
        "Rprop steps by signs: a step grows while the sign stays and shrinks when it changes.",
        "for full batches of small problems; noise misleads it.",
        "gf.rprop(0.001)",
    ),
    "schedule_free_adamw": About(
        "Schedule-free AdamW averages its points instead of following a schedule to zero.",
        "where the number of steps is not known; evaluate `schedule_free_eval_params(state, params)`.",
        "gf.schedule_free_adamw()",
    ),
    "schedule_free_sgd": About(
        "Schedule-free gradient descent averages its points instead of following a schedule to zero.",
        "where the number of steps is not known; evaluate `schedule_free_eval_params(state, params)`.",
        "gf.schedule_free_sgd()",
    ),
    "scion": About(
        "Scion takes the largest step in a norm that suits each layer: spectral for matrices.",
        "for networks whose width will grow: the rate carries over.",
        "gf.scion(0.001)",
    ),
    "noisy_sgd": About(
        "Gradient descent with Gaussian noise of variance `eta / (1 + t)^gamma`.",
        "for deep networks that stall early, and as a baseline for noise.",
        "gf.noisy_sgd(0.1, key=0)",
    ),
    "sgd": About(
        "Gradient descent, with momentum if it is given.",
        "for image networks, with momentum 0.9 and a schedule; and as the baseline.",
        "gf.sgd(0.1, momentum=0.9)",
    ),
    "shampoo": About(
        "Shampoo preconditions each side of a matrix by a root of summed outer products of gradients.",
        "for networks of matrices where steps are costly and fewer of them pay.",
        "gf.shampoo(0.1)",
    ),
    "sign_sgd": About(
        "Steps by the sign of the gradient.",
        "to send one bit per number between machines, or to study signs.",
        "gf.sign_sgd(0.001)",
    ),
    "signum": About(
        "Steps by the sign of averaged gradients.",
        "like `sign_sgd`, with noisy gradients.",
        "gf.signum(0.001)",
    ),
    "simplified_ademamix": About(
        "Simplified AdEMAMix adds the gradient to one slow momentum, so that it keeps one average.",
        "like `ademamix`, with less state, for small batches too.",
        "gf.simplified_ademamix(0.001)",
    ),
    "sm3": About(
        "SM3 is Adagrad that keeps one number for each row and column.",
        "for very large embeddings, when memory is short.",
        "gf.sm3(0.1)",
    ),
    "soap": About(
        "SOAP runs Adam in the slowly changing eigenbasis of Shampoo's preconditioner.",
        "for transformers where fewer steps pay for eigenvectors.",
        "gf.soap(0.003)",
    ),
    "soap_muon": About(
        "SOAP-Muon orthogonalizes SOAP's step for hidden matrices; AdamW takes all else.",
        "for hidden matrices where both SOAP and Muon beat AdamW.",
        "gf.soap_muon(0.02)",
    ),
    "sophia": About(
        "Sophia divides the averaged gradient by an averaged diagonal of the Hessian, and clips the step.",
        "for language models; an estimate of the curvature costs two gradients, every ten steps.",
        "gf.sophia(0.0001, weight_decay=0.2)",
    ),
    "splus": About(
        "SPlus takes the sign of the momentum in the eigenvectors of Shampoo's statistics.",
        "for steps near SOAP's with a decomposition every hundred steps; evaluate `eval_params`.",
        "gf.splus(0.1)",
    ),
    "stable_adamw": About(
        "StableAdamW is AdamW that shrinks a leaf's step where gradients outgrow their second moments.",
        "where loss spikes hurt, without gradient clipping.",
        "gf.stable_adamw(0.001)",
    ),
    "yogi": About(
        "Yogi is Adam whose second moment moves by a bounded amount per step.",
        "where Adam's second moment forgets rare large gradients.",
        "gf.yogi(0.01)",
    ),
}

# Arguments that no docstring of a stage describes.
_ARGUMENTS = {
    "adafactor": {"decay_offset": "the step that the decay's schedule begins at, for fine-tuning, >= 0."},
    "muon": {
        "adam_b1": "decay of AdamW's first moment, for leaves that are not matrices.",
        "adam_b2": "decay of AdamW's second moment.",
        "adam_eps_root": "added inside AdamW's root, >= 0.",
        "adam_weight_decay": "AdamW's weight decay, a number >= 0 or a schedule.",
    },
    "nadamw": {"momentum_decay": "None is Nesterov Adam; 4e-3 is the form of PyTorch and AlgoPerf."},
    "prodigy": {"estim_lr_coef": "a factor on the estimated rate, > 0."},
    "schedule_free_adamw": {"warmup_steps": "steps over which the rate rises from 0, or None."},
    "scion": {
        "ns_coeffs": "the coefficients of the Newton-Schulz iteration, as in `muon`.",
        "ns_steps": "the number of its iterations, >= 1.",
    },
    "shampoo": {"graft_eps": "added to the root of the grafted Adam, >= 0."},
}

# Examples of stages that are not simply followed by the learning rate.
_STAGES = {
    "for_matrices": "gf.for_matrices(gf.chain(gf.scale_by_soap(), gf.scale_by_learning_rate(0.003)))",
    "hutchinson_estimator_diag_hessian": (
        "gf.sophia(0.0001, hessian_diagonal_fn=gf.hutchinson_estimator_diag_hessian(random_seed=1))"
    ),
    "orthogonalize": "gf.chain(gf.trace(0.95), gf.orthogonalize(), gf.scale_by_learning_rate(0.02))",
    "scale_by_cocob": "gf.scale_by_cocob()",
    "scale_by_distance_over_gradients": (
        "gf.chain(gf.scale_by_distance_over_gradients(), gf.scale_by_learning_rate(1.0))"
    ),
    "scale_by_dog": "gf.chain(gf.scale_by_dog(), gf.scale_by_learning_rate(1.0))",
    "scale_by_dowg": "gf.chain(gf.scale_by_dowg(), gf.scale_by_learning_rate(1.0))",
    "scale_by_lbfgs": "gf.chain(gf.scale_by_lbfgs(), gf.scale(-1.0), gf.scale_by_zoom_linesearch(20))",
    "scale_by_madgrad": "gf.scale_by_madgrad(0.01)",
    "scale_by_neuron_norm": (
        "gf.chain(gf.scale_by_muon(), gf.scale_by_neuron_norm(), gf.scale_by_learning_rate(0.02))"
    ),
    "scale_by_polyak": "gf.chain(gf.scale_by_polyak(), gf.scale_by_learning_rate(1.0))",
    "scale_by_rprop": "gf.chain(gf.scale_by_rprop(0.001), gf.scale(-1.0))",
    "scale_by_shape": "gf.chain(gf.scale_by_muon(), gf.scale_by_shape(), gf.scale_by_learning_rate(0.02))",
    "shrink_by_learning_rate": "gf.chain(gf.scale_by_learning_rate(0.01), gf.shrink_by_learning_rate(0.01))",
    "step_by_muown": "gf.for_matrices(gf.step_by_muown(0.001), others=gf.adamw(0.001))",
}


def complete_docstrings(factories: dict[str, Any]) -> None:
    """Gives every optimizer in the table its whole docstring, and every other factory its example."""
    texts = {
        name: compose(factories[name], about.what, about.when, _ARGUMENTS.get(name, {}), about.example)
        for name, about in ABOUT.items()
    }
    for name, text in texts.items():
        factories[name].__doc__ = text
    for name, factory in factories.items():
        is_stage = name.startswith("scale_by_") or name in _STAGES
        text = inspect.cleandoc(factory.__doc__ or "") if is_stage else ""
        if is_stage and ">>>" not in text:
            usual = f"gf.chain(gf.{name}(), gf.scale_by_learning_rate(0.001))"
            factory.__doc__ = f"{text}\n\n{printed(_STAGES.get(name, usual))}"

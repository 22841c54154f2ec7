"""What the laws run over: every listed factory, and the departures from the laws, each with its reason.

A factory joins by being listed in its room. It needs an entry here only if a required argument is of a
kind that no other factory has.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import gradflow as gf
from gradflow._base import own_factories, stages_of

# Values for required arguments, by name.
ARGUMENTS: dict[str, Any] = {
    "learning_rate": 0.1,
    "step_size": -0.5,
    "step_size_fn": 0.5,
    "weight_decay": 0.01,
    "decay": 0.9,
    "max_norm": 1.0,
    "max_delta": 0.5,
    "threshold": 0.5,
    "clipping": 0.01,
    "eta": 0.01,
    "gamma": 0.55,
    "f": lambda u, p: u,
}


def _inner() -> Any:
    return gf.chain(gf.trace(0.9), gf.scale_by_learning_rate(0.1))


# Factories whose arguments are transformations, masks or functions of trees.
EXAMPLES: dict[str, Callable[[], Any]] = {
    "chain": lambda: gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(0.01)),
    "named_chain": lambda: gf.named_chain(("clip", gf.clip(0.5)), ("adam", gf.adam(0.01))),
    "stateless": lambda: gf.stateless(lambda u, p: gf.tree.scale(0.5, u)),
    "stateless_with_tree_map": lambda: gf.stateless_with_tree_map(lambda u, p: u * 0.5),
    "masked": lambda: gf.masked(_inner(), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
    "with_metrics": lambda: gf.with_metrics(_inner()),
    "apply_if_finite": lambda: gf.apply_if_finite(_inner(), 2),
    "MultiSteps": lambda: gf.MultiSteps(_inner(), 2),
    "add_noise": lambda: gf.add_noise(0.01, 0.55, key=0),
    "noisy_sgd": lambda: gf.noisy_sgd(0.1, key=0),
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
    "lars-mask": lambda: gf.lars(
        0.1, 0.01, trust_ratio_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p), nesterov=True
    ),
    "masked-zero": lambda: gf.masked(
        _inner(), lambda p: jax.tree.map(lambda x: x.ndim > 1, p), elsewhere="zero"
    ),
}

# (law, case) -> why the case departs from the law. Strict: a departure that is mended must be taken out.
_FIRST_STEP_AFTER_ZEROS = (
    "after zero gradients alone the rule divides by its eps, and float16 has no number that large"
)
DEPARTURES: dict[tuple[str, str], str] = {
    ("zero gradients in float16", "acprop"): _FIRST_STEP_AFTER_ZEROS,
    ("zero gradients in float16", "scale_by_acprop"): _FIRST_STEP_AFTER_ZEROS,
    ("zero gradients in float16", "adopt-unclipped"): _FIRST_STEP_AFTER_ZEROS,
    ("schedules follow the step", "MultiSteps"): (
        "the stages inside count the steps that they take, and they take one in k calls"
    ),
}


def _default(name: str) -> Any:
    factory = own_factories()[name]
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
    names = [name for name, factory in own_factories().items() if factory.kind == "transformation"]
    defaults = {name: EXAMPLES.get(name, lambda name=name: _default(name)) for name in sorted(names)}
    return {**defaults, **VARIANTS}


CASES = cases()


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


def leaf_policy(case: str) -> str:
    """Which leaves the stages of a case take: "any", "real" or "inexact"."""
    policies = {stage.leaves for stage in stages_of(build(case))} - {None}
    return next((policy for policy in ("real", "inexact") if policy in policies), "any")

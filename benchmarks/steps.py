"""Measures steps on large leaves: the main optimizers in detail, then each named one."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.exact import nbytes
from benchmarks.limit import limits
from benchmarks.measure import against_limits, repeated
from benchmarks.programs import arrays, both, compared, shapes
from benchmarks.rows import Row, Skipped
from gradflow import optimizers
from gradflow._expressions._registry import OWN_FACTORIES

Pair = tuple[Callable[[], Any], Callable[[], Any]]

PAIRS: dict[str, Pair] = {
    "adamw": (lambda: gf.adamw(1e-3), lambda: optax.adamw(1e-3)),
    "clip + adamw": (
        lambda: gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-3)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    ),
    "apply_if_finite(adamw)": (
        lambda: gf.apply_if_finite(gf.adamw(1e-3), 3),
        lambda: optax.apply_if_finite(optax.adamw(1e-3), 3),
    ),
    "MultiSteps(adamw, 4)": (
        lambda: gf.MultiSteps(gf.adamw(1e-3), 4),
        lambda: optax.MultiSteps(optax.adamw(1e-3), 4),
    ),
    "lion": (lambda: gf.lion(1e-4), lambda: optax.lion(1e-4)),
    "sgd momentum": (lambda: gf.sgd(0.1, momentum=0.9), lambda: optax.sgd(0.1, momentum=0.9)),
    "rmsprop": (lambda: gf.rmsprop(1e-3), lambda: optax.rmsprop(1e-3)),
}

# The update alone is measured for these, since wrappers that branch copy a gradient that is kept.
UPDATES = ("adamw", "clip + adamw", "apply_if_finite(adamw)", "MultiSteps(adamw, 4)", "lion")

# Arguments of factories besides a learning rate of 1e-3.
GIVEN: Mapping[str, Mapping[str, Any]] = {
    "bsam": {"num_examples": 1000, "key": 0},
    "noisy_sgd": {"key": 0},
}

# Extra arguments of updates.
EXTRA: Mapping[str, Mapping[str, Any]] = {
    "momo": {"value": 1.0},
    "momo_adam": {"value": 1.0},
    "polyak_sgd": {"value": 1.0},
    "sophia": {"obj_fn": lambda p: 0.5 * sum(jnp.sum(x * x) for x in jax.tree.leaves(p))},
}

# Optimizers whose step is not a single pass over the numbers: smaller models.
HEAVY = ("muon", "galore", "kron", "normuon", "scion", "shampoo", "soap", "soap_muon")

# These are measured elsewhere: they need per-example gradients, or a line search.
ELSEWHERE = {
    "dpsgd": "takes gradients of examples",
    "lbfgs": "in the group of its name",
    "for_matrices": "takes another optimizer",
    "orthogonalize": "a stage for matrices alone",
}

# The rows of many leaves. Each compiles for ten seconds, rules with norms of leaves for a minute.
MAIN = ("adam", "sgd", "lion", "rmsprop")

BUDGET = 0.6  # seconds of turns for a row


def named() -> list[str]:
    """gradflow's optimizers: all factories of the room that are not stages."""
    kinds = OWN_FACTORIES
    rooms = (n for n in dir(optimizers) if n in kinds and kinds[n].kind == "transformation")
    stages = ("scale_by_", "shrink_by_", "hutchinson_", "add_decayed_")
    return [n for n in rooms if not n.startswith(stages) and n not in ELSEWHERE]


def made(factory: Callable[..., Any], name: str) -> Any:
    """Makes the optimizer with its defaults; a required learning rate is 1e-3."""
    parameter = inspect.signature(factory).parameters.get("learning_rate")
    required = {"learning_rate": 1e-3} if parameter and parameter.default is parameter.empty else {}
    return factory(**required, **GIVEN.get(name, {}))


def pair(name: str) -> tuple[Any, Any]:
    """Makes a named optimizer of both libraries; None if the peer has none."""
    theirs = getattr(optax.contrib, name, None) or getattr(optax, name, None)
    return made(getattr(gf, name), name), made(theirs, name) if theirs else None


def _extra_arguments(name: str) -> dict[str, Any]:
    extra = EXTRA.get(name, {})
    return {k: v if callable(v) else jnp.float32(v) for k, v in extra.items()}


def step_row(
    name: str, ours: Any, peer: Any, leaves: int, size: int, runs: int, *,
    turns: int = 1, update_only: bool = False, more: int = 0, kernel: bool = False,
) -> Row:  # fmt: skip
    """Measures one program, with `turns` steps per run.

    `more` is the traffic of a run beyond one pass per step over all arrays, in bytes per byte of the model.
    """
    like = shapes(leaves, size)
    programs = both(ours, peer, like, update_only=update_only, extra=_extra_arguments(name))
    exact = compared(programs)
    shared = None if update_only else arrays(like, 2)
    ready = [repeated(program.start(shared), turns) for program in programs]
    moved = turns * programs[0].moved + more * nbytes(like)
    found = [] if update_only else limits(moved, leaves * size if kernel else 0)
    ratios, of_limits = against_limits(ready[0], ready[1:], found, runs, BUDGET)
    for program in programs:
        program.stop()
    what = "update" if update_only else "step"
    figure = f"{what}, {leaves} x {size:,}"
    if "C adamw" in of_limits:
        of_limits["C adamw"] /= turns
    ratio = ratios[0]._replace(seconds=ratios[0].seconds / turns) if ratios else None
    return Row(name, figure, ratio, limits=of_limits or None, exact=exact)


def steps(quick: bool, every: bool) -> Iterator[Row]:
    """Measures a donated, jitted step on large leaves, and the update alone.

    The step gets its gradients from outside, where they are kept, so wrappers that branch must copy them.
    """
    leaves, size, runs = (16, 250_000, 10) if quick else (64, 1_000_000, 10)
    for name, (ours, peer) in PAIRS.items():
        # MultiSteps is the mean of a whole round: three of its four steps read the gradient and the sum and
        # write the sum, 12 bytes instead of 36. Norm and finiteness need one more pass over the gradient.
        turns = 4 if name.startswith("MultiSteps") else 1
        more = -18 if turns > 1 else name in ("clip + adamw", "apply_if_finite(adamw)")
        for update_only in (False, True) if name in UPDATES and not quick else (False,):
            yield step_row(
                name, ours(), peer(), leaves, size, runs,
                turns=turns, update_only=update_only, more=more, kernel="adamw" in name,
            )  # fmt: skip


def every_optimizer(quick: bool, every: bool) -> Iterator[Row | Skipped]:
    """Measures one donated, jitted step of each named optimizer that is not in `steps`."""
    leaves, size, runs = (2, 490_000, 6) if quick else (64, 1_000_000, 8)
    rest = [name for name in named() if every or name not in PAIRS]
    for name in rest[:: 2 if quick else 1]:
        if name in HEAVY:
            yield step_row(name, *pair(name), 2 if quick else 8, size // 4, runs)
        else:
            yield step_row(name, *pair(name), leaves, size, runs)
    for name, why in ELSEWHERE.items():
        yield Skipped(name, why)


def many_leaves(quick: bool, every: bool) -> Iterator[Row]:
    """Measures as many parameters in many leaves: the main optimizers, or with --all each named one."""
    leaves, size, runs = (100, 10_000, 10) if quick else (1000, 10_000, 10)
    ours, peer = PAIRS["clip + adamw"]
    yield step_row("clip + adamw", ours(), peer(), leaves, size, runs, more=1, kernel=True)
    for name in named() if every else MAIN[:3] if quick else MAIN:
        yield step_row(name, *pair(name), leaves, size if name not in HEAVY else 400, runs)

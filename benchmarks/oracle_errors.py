"""How far each method of the race is from a reference, in float64.

A reference is a stored trajectory of another implementation (`tests/oracles`), or the rule in NumPy
(`benchmarks/matrix_rules.py`).
"""

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from benchmarks import matrix_rules as rules

STORED = pathlib.Path(__file__).parent.parent / "tests" / "oracles"
STEPS = 6
Case = Callable[[], tuple[Any, Any]]  # what gradflow found, and what the reference has


def stored(name: str) -> Case:
    """The parameters after each step of a stored trajectory."""

    def compared() -> tuple[Any, Any]:
        data = json.loads((STORED / f"{name}.json").read_text())
        call = data["gradflow"]
        tx = getattr(gf, call["name"])(*call["args"], **call["kwargs"])
        found = trajectory(tx, _arrays(data["params0"]), [_arrays(grads) for grads in data["grads"]])
        return found, [_arrays(params) for params in data["trajectory"]]

    return compared


def _arrays(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(values, np.float64) for name, values in tree.items()}


def by_rule(
    make: Callable[[], Any], rule: Callable[..., Any], shape: tuple[int, ...] = (5, 5), **numbers: Any
) -> Case:
    """The parameters after each step by a rule in NumPy, from normal numbers."""

    def compared() -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        params, *grads = rng.normal(size=(STEPS + 1, *shape))
        return trajectory(make(), params, grads), rule(params, grads, **numbers)

    return compared


def trajectory(tx: Any, params: Any, grads: Sequence[Any]) -> list[Any]:
    """The parameters after each step, in float64."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, params)
        state, step, found = tx.init(params), jax.jit(tx.update), []
        for g in grads:
            updates, state = step(jax.tree.map(jnp.asarray, g), state, params)
            params = gf.apply_updates(params, updates)
            found.append(jax.tree.map(np.asarray, params))
    return found


def kron_draws(seed: int, shape: tuple[int, ...], steps: int) -> tuple[list[Any], list[bool]]:
    """The probes that one leaf of Kron draws from a seed, and whether its factors are balanced."""
    probes, balances = [], []
    with jax.enable_x64(True):
        key = jax.random.key(seed)
        for _ in range(steps):
            key, now = jax.random.split(key)
            balance, probe = jax.random.split(jax.random.split(now, 1)[0])
            probes.append(np.asarray(jax.random.normal(probe, shape, jnp.float64)))
            balances.append(len(shape) > 1 and bool(jax.random.uniform(balance) < 0.01))
    return probes, balances


def _kron(x: Any, grads: list[Any], **numbers: Any) -> list[Any]:
    probes, balances = kron_draws(7, x.shape, len(grads))
    return rules.kron(x, grads, probes, balances, diagonal=(False, False), **numbers)


def _hyperball() -> Any:
    return gf.chain(gf.scale_by_muon(beta=0.8), gf.step_on_hyperball(0.1))


def _shampoo() -> Any:
    return gf.shampoo(0.1, 0.9, 0.8, 1e-3, precondition_frequency=2, grafting="adam", b2=0.97, start_step=1)


_SOAP: dict[str, Any] = {"rate": 0.1, "b1": 0.8, "b2": 0.7, "beta": 0.6, "eps": 1e-8}
_NADAMW = by_rule(
    lambda: gf.nadamw(0.1, 0.8, 0.7, 1e-8, weight_decay=0.05), rules.nadamw, (4, 6),
    rate=0.1, b1=0.8, b2=0.7, eps=1e-8, decay=0.05,
)  # fmt: skip
CASES: Mapping[str, tuple[Case, ...]] = {
    **dict.fromkeys(("adamw", "adamw 1/8", "adamw 1/16"), (stored("adamw"),)),
    **dict.fromkeys(("nadamw", "nadamw 1/8", "nadamw 1/16"), (_NADAMW,)),
    "muon": (stored("muon_bias_corrected"), stored("muon_torch"), stored("muon_match_rms")),
    "normuon": (
        by_rule(
            lambda: gf.normuon(0.1, beta=0.8, b2=0.7, weight_decay=0.05), rules.normuon, (4, 6),
            rate=0.1, beta=0.8, b2=0.7, decay=0.05, axis="outputs",
        ),
    ),
    "muon on the hyperball": (by_rule(_hyperball, rules.muon_on_hyperball, (4, 6), rate=0.1, beta=0.8),),
    "soap every step": (
        by_rule(lambda: gf.soap(0.1, 0.8, 0.7, 0.6, 1e-8, 0.0, 1), rules.soap, **_SOAP, every=1, decay=0.0),
    ),
    "soap every 10": (stored("soap"),),
    "soap_muon": (
        by_rule(
            lambda: gf.soap_muon(0.1, 0.8, 0.7, 0.6, 0.05), rules.soap,
            **_SOAP, every=1, decay=0.05, table="quintic",
        ),
    ),
    "scion": (stored("scion"), stored("scion_constrained")),
    "adamuon": (
        by_rule(
            lambda: gf.adamuon(0.1, 0.8, 0.7, 1e-3, 0.02), rules.adamuon, (4, 6),
            rate=0.1, b1=0.8, b2=0.7, eps=1e-3, decay=0.02, signed=True,
        ),
    ),
    "dion2": (
        by_rule(
            lambda: gf.dion2(0.1, 0.3, 0.9, 0.02), rules.dion2, (5, 8),
            rate=0.1, fraction=0.3, feedback=0.9, decay=0.02, rows=True,
        ),
    ),
    "muown": (
        by_rule(
            lambda: gf.muown(0.1, 0.8, 0.7, 0.9, 1e-3, 0.05), rules.muown, (4, 6),
            rate=0.1, beta=0.8, b1=0.7, b2=0.9, eps=1e-3, decay=0.05, rms=None, nesterov=True,
        ),
    ),
    "splus": (
        by_rule(
            lambda: gf.chain(
                gf.scale_by_splus(0.8, 0.9, 3), gf.add_decayed_weights(0.02), gf.scale_by_learning_rate(0.1)
            ),
            rules.splus, rate=0.1, b1=0.8, b2=0.9, every=3, decay=0.02,
        ),
    ),
    "kron": (
        by_rule(
            lambda: gf.kron(0.1, 0.8, 0.0, 1.0, 0.2, key=7), _kron, (4, 5),
            rate=0.1, b1=0.8, factor_rate=0.2,
        ),
    ),
    "shampoo": (
        stored("shampoo"),
        by_rule(_shampoo, rules.grafted_shampoo, rate=0.1, b1=0.9, beta=0.8, eps=1e-3, every=2, b2=0.97),
    ),
}  # fmt: skip


def relative_errors(found: Any, expected: Any) -> Iterator[float]:
    """Of each array the largest difference over the largest number that is expected."""
    for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        yield float(np.max(np.abs(own - other)) / np.max(np.abs(other)))


def oracle_error(name: str) -> float:
    """The largest relative difference of a method of the race to its references."""
    return max(max(relative_errors(*case())) for case in CASES[name])

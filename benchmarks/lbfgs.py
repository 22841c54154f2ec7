"""Measures compiled solves by L-BFGS in float64: time to one tolerance, and evaluations.

Every solver ends where no entry of the gradient exceeds the tolerance, which is `minimize`'s own rule. A peer
that stops by another norm gets its loosest tolerance with which the result passes.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from benchmarks.measure import FEWEST, interleaved, ratio_of, repeated, turns
from benchmarks.rows import Row, Skipped

TOLERANCE = 1e-6  # of the largest entry of the gradient
STEPS = 5000
REPEATS = 4
BUDGET = 10.0  # seconds for the turns of a problem


class Problem(NamedTuple):
    """A function and a starting point."""

    function: Callable[[Any], Any]
    start: Any


class Found(NamedTuple):
    """Where a solver ended, after how many evaluations of the function."""

    params: Any
    evaluations: Any


Solver = Callable[[Any, Any], Found]  # from a point, to a tolerance


def problems() -> dict[str, Problem]:
    """Rosenbrock's valley, a quadratic of condition 1e4, and logistic regression."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(50, 50)))
    hessian = jnp.asarray(rotation * np.logspace(0, 4, 50) @ rotation.T)
    target = jnp.asarray(rng.normal(size=50))
    images = jnp.asarray(rng.normal(size=(500, 64)))
    labels = jnp.asarray(np.sign(rng.normal(size=500) + np.asarray(images) @ rng.normal(size=64)))

    def rosenbrock(x: Any) -> Any:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    def quadratic(x: Any) -> Any:
        return 0.5 * (x - target) @ hessian @ (x - target)

    def logistic(w: Any) -> Any:
        return jnp.mean(jnp.logaddexp(0.0, -labels * (images @ w))) + 1e-4 * jnp.sum(w * w)

    return {
        "rosenbrock-20": Problem(rosenbrock, jnp.tile(jnp.asarray([-1.2, 1.0]), 10)),
        "quadratic, condition 1e4": Problem(quadratic, jnp.zeros(50)),
        "logistic regression": Problem(logistic, jnp.zeros(64)),
    }


def digits() -> Problem:
    """Multinomial logistic regression on scikit-learn's digits: 1797 images, ten classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = jnp.asarray(np.column_stack([data.data / 16, np.ones(len(data.data))]))
    labels = jnp.asarray(data.target)

    def loss(w: Any) -> Any:
        scores = images @ w.reshape(images.shape[1], 10)
        right = jnp.take_along_axis(scores, labels[:, None], 1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(scores, 1) - right) + 5e-4 * jnp.sum(w * w)

    return Problem(loss, jnp.zeros(images.shape[1] * 10))


def _ours(function: Callable[[Any], Any]) -> Solver:
    def solve(x: Any, tolerance: Any) -> Found:
        result = gf.minimize(function, x, max_steps=STEPS, tol=tolerance)
        return Found(result.params, result.evaluations)

    return solve


def _optax(function: Callable[[Any], Any]) -> Solver:
    """The loop of Optax's documentation, with its evaluations counted."""
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(function)

    def solve(x: Any, tolerance: Any) -> Found:
        def go_on(carry: Any) -> Any:
            _, state, steps, _ = carry
            grad = optax.tree.get(state, "grad")
            return (steps == 0) | ((steps < STEPS) & (jnp.max(jnp.abs(grad)) > tolerance))

        def step(carry: Any) -> Any:
            x, state, steps, evaluations = carry
            value, grad = value_and_grad(x, state=state)
            updates, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=function)
            info = optax.tree.get(state, "info")
            x = optax.apply_updates(x, updates)
            return x, state, steps + 1, evaluations + info.num_linesearch_steps.astype(jnp.int32)

        x, _, _, evaluations = jax.lax.while_loop(
            go_on, step, (x, solver.init(x), jnp.int32(0), jnp.int32(1))
        )
        return Found(x, evaluations)

    return jax.jit(solve)


def _jaxopt(name: str, **how: Any) -> Callable[[Callable[[Any], Any]], Solver]:
    """A solver of jaxopt, which stops by the Euclidean norm of the gradient."""

    def make(function: Callable[[Any], Any]) -> Solver:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jaxopt warns that it is no longer developed
            solver = getattr(importlib.import_module("jaxopt"), name)

        def solve(x: Any, tolerance: Any) -> Found:
            result = solver(function, tol=tolerance, maxiter=STEPS, **how).run(x)
            return Found(result.params, result.state.num_fun_eval)

        return jax.jit(solve)

    return make


def _optimistix(name: str) -> Callable[[Callable[[Any], Any]], Solver]:
    """A solver of optimistix, which stops by the sizes of a step and of the loss's change."""

    def make(function: Callable[[Any], Any]) -> Solver:
        optimistix = importlib.import_module("optimistix")

        def solve(x: Any, tolerance: Any) -> Found:
            solver = getattr(optimistix, name)(tolerance, tolerance, norm=optimistix.max_norm)
            result = optimistix.minimise(lambda x, _: function(x), solver, x, max_steps=STEPS, throw=False)
            return Found(result.value, result.stats["num_steps"])

        return jax.jit(solve)

    return make


def _scipy(function: Callable[[Any], Any]) -> Solver:
    """SciPy's solver, for orientation: its loop is not compiled, only the function is."""
    minimize = importlib.import_module("scipy.optimize").minimize
    compiled = jax.jit(jax.value_and_grad(function))

    def evaluate(x: Any) -> Any:
        value, grad = compiled(x)
        return float(value), np.asarray(grad)

    def solve(x: Any, tolerance: Any) -> Found:
        options = {
            "maxcor": 10,
            "gtol": float(tolerance),
            "ftol": 0.0,
            "maxiter": STEPS,
            "maxfun": 10 * STEPS,
        }
        result = minimize(evaluate, np.asarray(x), jac=True, method="L-BFGS-B", options=options)
        return Found(result.x, result.nfev)

    return solve


MATRIX = 100  # largest number of parameters for solvers that store a whole matrix, those called BFGS
PEERS: dict[str, tuple[str, Callable[[Callable[[Any], Any]], Solver]]] = {
    "Optax": ("optax", _optax),
    "jaxopt, zoom": ("jaxopt", _jaxopt("LBFGS")),
    "jaxopt, backtracking": ("jaxopt", _jaxopt("LBFGS", linesearch="backtracking")),
    "jaxopt BFGS": ("jaxopt", _jaxopt("BFGS")),
    "optimistix": ("optimistix", _optimistix("LBFGS")),
    "optimistix BFGS": ("optimistix", _optimistix("BFGS")),
    "scipy": ("scipy", _scipy),
}

UNLIKE = ("jaxopt BFGS", "optimistix BFGS", "scipy")  # these use other methods
SLEEPS = "scipy"  # runs Python between evaluations, so the next solve's threads must wake up


def _passes(problem: Problem, found: Found) -> bool:
    return bool(jnp.max(jnp.abs(jax.grad(problem.function)(jnp.asarray(found.params)))) <= TOLERANCE)


def _loosest(solver: Solver, problem: Problem) -> float | None:
    """The loosest tolerance of a solver with which its result passes; None if there is none."""
    for halvings in range(40):
        tolerance = 64 * TOLERANCE / 2**halvings
        if _passes(problem, solver(problem.start, tolerance)):
            return tolerance
    return None


def _compiling(problem: Problem, make: Callable[[Callable[[Any], Any]], Solver]) -> Callable[[], Any]:
    def run() -> None:
        jax.clear_caches()
        solver = make(lambda x: problem.function(x))
        jax.jit(lambda x: solver(x, TOLERANCE)).lower(problem.start).compile()

    return run


def lbfgs(quick: bool) -> Iterator[Row | Skipped]:
    """Measures `minimize` against the peers' solvers in the same turns; missing packages are skipped."""
    missing = {package for package, _ in PEERS.values() if importlib.util.find_spec(package) is None}
    for package in sorted(missing):
        yield Skipped(package, f"no {package}: pip install {package}")
    with jax.enable_x64(True):
        chosen = {"rosenbrock-20": problems()["rosenbrock-20"]} if quick else problems()
        if importlib.util.find_spec("sklearn") is None:
            yield Skipped("digits", "no scikit-learn, which has them: pip install scikit-learn")
        elif not quick:
            chosen["digits, 650 parameters"] = digits()
        left_out = {peer for peer in PEERS if PEERS[peer][0] in missing or (quick and peer in UNLIKE)}
        for name, problem in chosen.items():
            yield from _rows(name, problem, left_out, 5 if quick else 15)
        problem = chosen["rosenbrock-20"]
        ratio = interleaved(_compiling(problem, _ours), _compiling(problem, _optax), 2 if quick else 5)
        yield Row("rosenbrock-20", "trace and compile", ratio)


def against_backtracking() -> Iterator[Row | Skipped]:
    """Measures `minimize` against jaxopt's line search by backtracking, on the three small problems."""
    peer = "jaxopt, backtracking"
    if importlib.util.find_spec(PEERS[peer][0]) is None:
        yield Skipped(peer, "no jaxopt: pip install jaxopt")
        return
    with jax.enable_x64(True):
        for name, problem in problems().items():
            yield from _rows(name, problem, set(PEERS) - {peer}, 15)


def _rows(name: str, problem: Problem, left_out: set[str], runs: int) -> Iterator[Row | Skipped]:
    ours = _ours(problem.function)
    result = ours(problem.start, TOLERANCE)
    if not _passes(problem, result):
        yield Skipped(name, "minimize did not reach the tolerance")
        return
    ready: dict[str, tuple[Solver, float]] = {}
    for peer, (_, make) in PEERS.items():
        if peer in left_out or (" BFGS" in peer and problem.start.size > MATRIX):
            continue
        solver = make(problem.function)
        tolerance = _loosest(solver, problem)
        if tolerance is None:
            yield Skipped(name, f"{peer} does not reach the tolerance")
        else:
            ready[peer] = solver, tolerance

    def seconds(solvers: list[tuple[Solver, float]]) -> list[list[float]]:
        """Seconds per solve; a turn has several, since the first one also pays for cold caches."""
        solves = [repeated(lambda s=s, t=t: s(problem.start, t), REPEATS) for s, t in solvers]
        return [[time / REPEATS for time in times] for times in turns(solves, runs, BUDGET)]

    compiled = {peer: pair for peer, pair in ready.items() if peer != SLEEPS}
    mine, *others = seconds([(ours, TOLERANCE), *compiled.values()])
    measured = dict(zip(compiled, others, strict=True))
    if SLEEPS in ready:
        measured[SLEEPS] = turns([lambda: ready[SLEEPS][0](problem.start, ready[SLEEPS][1])], FEWEST)[0]
    for peer, times in measured.items():
        solver, tolerance = ready[peer]
        evaluations = solver(problem.start, tolerance).evaluations
        exact = {"evaluations": (int(result.evaluations), int(evaluations))}
        yield Row(name, "solve", ratio_of(mine[: len(times)], times), against=peer, exact=exact)

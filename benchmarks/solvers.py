"""Solvers with bounds and penalties against SciPy, jaxopt, optimistix and scikit-learn, in float64.

python -m benchmarks.solvers               all tables; what peers do not solve takes longest
python -m benchmarks.solvers --only lasso  one table: problems, constrained, lasso or data
python -m benchmarks.solvers --only problems --peers jaxopt --processor-time   the times of one peer

Each problem is solved freely and between bounds until no entry of the projected gradient exceeds a tolerance.
In the bounded form every second number may not pass the middle between its start and the free minimum.
"""

import argparse
import functools
import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from benchmarks.hock_schittkowski import PROBLEMS as HOCK_SCHITTKOWSKI
from benchmarks.hock_schittkowski import Constrained
from benchmarks.measure import ratio_of, repeated, turns
from benchmarks.more_garbow_hillstrom import PROBLEMS, Problem
from gradflow._tables import aligned

TOLERANCE = 1e-5  # of the largest entry of the projected gradient
STEPS = 5000
REPEATS, RUNS = 3, 5


class Found(NamedTuple):
    """A minimum, after how many evaluations, and the largest entry of the projected gradient."""

    value: float
    evaluations: int
    residual: float


class Solved(NamedTuple):
    """What `optimistix_solve` returns: a tree, so that a clock can wait for its arrays."""

    x: Any
    nfev: Any


Solve = Callable[[], Any]
Clock = Callable[[], float]


def bounds_of(problem: Problem, minimum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-sided bounds that keep every second number from its free minimum."""
    middle = (problem.start + minimum) / 2
    chosen = np.arange(middle.size) % 2 == 0
    lower = np.where(chosen & (minimum < problem.start), middle, -np.inf)
    upper = np.where(chosen & (minimum > problem.start), middle, np.inf)
    return lower, upper


def ours(problem: Problem, bounds: Any) -> Solve:
    """`minimize`, which is `lbfgs` without bounds and `lbfgsb` with them."""
    start = jnp.asarray(problem.start)
    bounds = None if bounds is None else tuple(map(jnp.asarray, bounds))
    loss = problem.loss
    solve = jax.jit(lambda x, b: gf.minimize(loss, x, max_steps=STEPS, tol=TOLERANCE, bounds=b))
    return lambda: solve(start, bounds)


def scipy_solve(problem: Problem, bounds: Any) -> Solve:
    """SciPy's L-BFGS-B: only the function is compiled."""
    optimize = importlib.import_module("scipy.optimize")
    compiled = jax.jit(jax.value_and_grad(problem.loss))

    def evaluate(x: Any) -> Any:
        value, grad = compiled(x)
        return float(value), np.asarray(grad)

    options = {"maxcor": 10, "gtol": TOLERANCE, "ftol": 0.0, "maxiter": STEPS, "maxfun": 10 * STEPS}
    pairs = None if bounds is None else list(zip(*bounds, strict=True))

    def solve() -> Any:
        how = {"jac": True, "method": "L-BFGS-B", "bounds": pairs, "options": options}
        return optimize.minimize(evaluate, problem.start, **how)

    return solve


def jaxopt_solve(problem: Problem, bounds: Any) -> Solve:
    """jaxopt's LBFGSB, or its LBFGS without bounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jaxopt warns that it is no longer developed
        jaxopt = importlib.import_module("jaxopt")
    start = jnp.asarray(problem.start)
    if bounds is None:
        run = jax.jit(lambda x: jaxopt.LBFGS(problem.loss, tol=TOLERANCE, maxiter=STEPS).run(x))
        return lambda: run(start)
    pair = tuple(map(jnp.asarray, bounds))
    bounded = jax.jit(lambda x, b: jaxopt.LBFGSB(problem.loss, tol=TOLERANCE, maxiter=STEPS).run(x, bounds=b))
    return lambda: bounded(start, pair)


def optimistix_solve(problem: Problem, bounds: Any) -> Solve | None:
    """optimistix' LBFGS; it has no solver with bounds."""
    if bounds is not None:
        return None
    optimistix = importlib.import_module("optimistix")
    solver = optimistix.LBFGS(TOLERANCE, TOLERANCE, norm=optimistix.max_norm)
    start = jnp.asarray(problem.start)

    @jax.jit
    def run(x: Any) -> Solved:
        loss = lambda x, _: problem.loss(x)  # noqa: E731  # optimistix passes arguments
        result = optimistix.minimise(loss, solver, x, max_steps=STEPS, throw=False)
        return Solved(result.value, result.stats["num_steps"])

    return lambda: run(start)


PEERS = {"scipy": scipy_solve, "jaxopt": jaxopt_solve, "optimistix": optimistix_solve}


def read(problem: Problem, bounds: Any, result: Any) -> Found:
    """What a solver found, in one form."""
    x = next(getattr(result, name) for name in ("params", "x", "value") if hasattr(result, name))
    state = getattr(result, "state", result)
    counts = [getattr(state, name, None) for name in ("evaluations", "nfev", "num_fun_eval", "iter_num")]
    count = next(c for c in counts if c is not None)
    value, grad = jax.value_and_grad(problem.loss)(jnp.asarray(x))
    lower, upper = (-np.inf, np.inf) if bounds is None else bounds
    residual = np.minimum(np.maximum(np.asarray(grad), x - upper), x - lower)
    return Found(float(value), int(count), float(np.max(np.abs(residual))))


def problems(
    peers: Sequence[str], clock: Clock
) -> Iterator[tuple[str, str, Found, dict[str, tuple[Found, float | None]]]]:
    """Each problem, freely and between bounds: what we find, and what peers find with the ratio of times."""
    for name, problem in PROBLEMS.items():
        free = scipy_solve(problem, None)().x
        for form, bounds in (("free", None), ("bounded", bounds_of(problem, free))):
            solvers = {peer: PEERS[peer](problem, bounds) for peer in peers}
            ready = {peer: solve for peer, solve in solvers.items() if solve is not None}
            if not ready:
                continue
            mine = ours(problem, bounds)
            found = {peer: read(problem, bounds, solve()) for peer, solve in ready.items()}
            compiled = [repeated(solve, REPEATS) for peer, solve in ready.items() if peer != "scipy"]
            seconds, *others = turns([repeated(mine, REPEATS), *compiled], RUNS, 3.0, clock)
            times = dict(zip([peer for peer in ready if peer != "scipy"], others, strict=True))
            if "scipy" in ready:
                once, alone = turns([mine, ready["scipy"]], 4, 3.0, clock)
            rows = {}
            for peer, result in found.items():
                pair = (once, alone) if peer == "scipy" else (seconds, times[peer])
                rows[peer] = result, ratio_of(*pair).ratio
            yield name, form, read(problem, bounds, mine()), rows


def _problem_table(peers: Sequence[str], clock: Clock) -> None:
    heads = ["problem", "form", "value", "evaluations"]
    for peer in peers:
        heads += [f"{peer}'s value", "evaluations", "its time / ours"]
    rows, ratios, speeds = [], {"free": [], "bounded": []}, {}  # type: ignore[var-annotated]
    for name, form, mine, others in problems(peers, clock):
        row = [name, form, f"{mine.value:.8g}" + " *" * (mine.residual > TOLERANCE), str(mine.evaluations)]
        for peer in peers:
            if peer not in others:
                row += ["", "", ""]
                continue
            found, speed = others[peer]
            above = found.value > mine.value + 1e-6 * max(1.0, abs(mine.value))
            missed = " *" * (found.residual > 2 * TOLERANCE or above)
            row += [f"{found.value:.8g}{missed}", str(found.evaluations), f"{speed:.2f}"]
            if not missed:
                speeds.setdefault((peer, form), []).append(speed)
            if peer == "scipy":
                ratios[form].append(mine.evaluations / found.evaluations)
        rows.append(row)
        print("  ".join(row), flush=True)
    print("\n" + "\n".join(aligned([heads, *rows], (0, 1), rule=True)))
    print("* the projected gradient is above the tolerance, or the value above our minimum\n")
    for form, counts in ratios.items():
        if counts:
            print(f"{form}: evaluations / SciPy's, median {np.median(counts):.2f}, largest {max(counts):.2f}")
    for (peer, form), values in speeds.items():
        print(f"{form}: {peer}'s time / ours, median {np.median(values):.2f}, {len(values)} problems solved")


def slsqp(problem: Constrained) -> Solve:
    """SciPy's SLSQP, with compiled functions and derivatives."""
    optimize = importlib.import_module("scipy.optimize")

    def compiled(function: Any, sign: float = 1.0) -> tuple[Any, Any]:
        value = jax.jit(lambda x: sign * jnp.atleast_1d(function(x)))
        slope = jax.jit(jax.jacrev(lambda x: sign * jnp.atleast_1d(function(x))))
        return lambda x: np.asarray(value(x)), lambda x: np.asarray(slope(x))

    loss = jax.jit(jax.value_and_grad(problem.loss))
    parts = [("eq", problem.equality, 1.0), ("ineq", problem.inequality, -1.0)]
    both = [(kind, compiled(function, sign)) for kind, function, sign in parts if function is not None]
    constraints = [{"type": kind, "fun": value, "jac": slope} for kind, (value, slope) in both]
    bounds = None if problem.bounds is None else [problem.bounds] * len(problem.start)

    def evaluate(x: Any) -> Any:
        value, grad = loss(x)
        return float(value), np.asarray(grad)

    how = {"jac": True, "method": "SLSQP", "bounds": bounds, "constraints": constraints}
    return lambda: optimize.minimize(evaluate, problem.start, options={"ftol": 1e-14, "maxiter": 500}, **how)


def _constrained_table(clock: Clock) -> None:
    heads = ["problem", "error of the value", "of multipliers", "evaluations", "SLSQP's error"]
    rows = []
    for name, problem in HOCK_SCHITTKOWSKI.items():
        start = jnp.asarray(problem.start)
        solve = jax.jit(lambda x, problem=problem: problem.solve(x, tol=1e-8))
        peer, result = slsqp(problem), solve(start)
        found = peer()
        seconds, others = turns([lambda solve=solve, start=start: solve(start), peer], 6, 3.0, clock)
        errors = np.abs(problem.multipliers_of(result) - np.asarray(problem.multipliers))
        row = [name, f"{abs(float(result.value) - problem.value):.0e}", f"{np.max(errors):.0e}"]
        row += [str(result.evaluations), f"{abs(found.fun - problem.value):.0e}", str(found.nfev)]
        rows.append([*row, f"{ratio_of(seconds, others).ratio:.2f}"])
    heads += ["evaluations", "its time / ours"]
    print("\n".join(aligned([heads, *rows], (0,), rule=True)))


def lasso_path(clock: Clock) -> Iterator[tuple[str, float, float, float, float]]:
    """Thirty penalties on the diabetes data: the two largest gaps, our seconds, and the ratio of times.

    scikit-learn's tolerance is that of the duality gap, in units of `|y|^2`; ours is that of the gradient. So
    each row names both gaps. The Gram matrix is computed inside, as scikit-learn does.
    """
    datasets, linear = (importlib.import_module(f"sklearn.{name}") for name in ("datasets", "linear_model"))
    x, y = datasets.load_diabetes(return_X_y=True)
    x, y = x - x.mean(axis=0), y - y.mean()
    alphas = np.geomspace(2.0, 0.002, 30)
    zeros, penalties = jnp.zeros(x.shape[1]), jnp.asarray(alphas)

    def largest_gap(weights: np.ndarray) -> float:
        rows = zip(weights, alphas, strict=True)
        return float(max(_duality_gap(x, y, w, a) for w, a in rows)) / (y @ y)

    def on_gram(x: Any, y: Any) -> Any:
        gram, moment = x.T @ x / y.size, x.T @ y / y.size
        return lambda w: 0.5 * w @ gram @ w - moment @ w

    def on_data(x: Any, y: Any) -> Any:
        return lambda w: 0.5 * jnp.mean((x @ w - y) ** 2)

    for name, known, form, tol, peers in (
        ("Gram matrix, known curvature", True, on_gram, 3e-5, 1e-4),
        ("Gram matrix, known curvature", True, on_gram, 5e-10, 1e-9),
        ("Gram matrix", False, on_gram, 3e-5, 1e-4),
        ("Gram matrix", False, on_gram, 1e-10, 1e-9),
        ("data", False, on_data, 3e-5, 1e-4),
        ("data", False, on_data, 1e-10, 1e-9),
    ):

        @jax.jit
        def path(
            x: Any, y: Any, penalties: Any, form: Any = form, tol: float = tol, known: bool = known
        ) -> Any:
            loss = form(x, y)
            # Of a quadratic the longest step is known: no search.
            tx = gf.fista(y.size / jnp.linalg.eigvalsh(x.T @ x)[-1]) if known else None

            def solve(weight: Any) -> Any:
                penalty = gf.l1_penalty(weight)
                return gf.minimize(loss, zeros, tx, prox=penalty, tol=tol, max_steps=20000).params

            return jax.vmap(solve)(penalties)

        def peer(tol: float = peers) -> Any:
            return linear.lasso_path(x, y, alphas=alphas, tol=tol, max_iter=100000)[1]

        def mine(path: Any = path) -> Any:
            return path(jnp.asarray(x), jnp.asarray(y), penalties)

        seconds, others = turns([mine, peer], 15, 6.0, clock)
        gaps = largest_gap(np.asarray(mine())), largest_gap(peer().T)
        yield f"{name}, lasso_path at {peers:g}", *gaps, min(seconds), ratio_of(seconds, others).ratio


def _duality_gap(x: np.ndarray, y: np.ndarray, w: np.ndarray, alpha: float) -> float:
    """How far the lasso's value is above that of the best dual point along the residual."""
    rest = y - x @ w
    most = alpha * y.size
    dual = min(1.0, most / np.abs(x.T @ rest).max()) * rest
    return float(rest @ rest / 2 + most * np.abs(w).sum() - (y @ y - (y - dual) @ (y - dual)) / 2)


def _lasso_table(clock: Clock) -> None:
    heads = [
        "30 lasso penalties, one vmapped program",
        "our gap",
        "its gap",
        "ms",
        "lasso_path's time / ours",
    ]
    rows = [
        [name, f"{gap:.0e}", f"{its:.0e}", f"{1e3 * s:.2f}", f"{r:.2f}"]
        for name, gap, its, s, r in lasso_path(clock)
    ]
    print("\n".join(aligned([heads, *rows], (0,), rule=True)))


def breast_cancer() -> tuple[Callable[[Any], Any], Any, tuple[float, float]]:
    """Logistic regression with a ridge on standardized measurements: the loss, a start, and a box."""
    x, y = importlib.import_module("sklearn.datasets").load_breast_cancer(return_X_y=True)
    x, target = jnp.asarray((x - x.mean(axis=0)) / x.std(axis=0)), jnp.asarray(y, float)

    def logistic(w: Any) -> Any:
        losses = gf.losses.sigmoid_binary_cross_entropy(x @ w[:-1] + w[-1], target)
        return losses.sum() + 0.5 * jnp.sum(w[:-1] ** 2)

    return logistic, jnp.zeros(x.shape[1] + 1), (-0.5, 0.5)


def scipy_bounded(loss: Callable[[Any], Any], start: Any, box: tuple[float, float]) -> Solve:
    """SciPy's L-BFGS-B with the same bounds for every number."""
    optimize = importlib.import_module("scipy.optimize")
    compiled = jax.jit(jax.value_and_grad(loss))

    def evaluate(w: Any) -> Any:
        value, grad = compiled(w)
        return float(value), np.asarray(grad)

    options = {"gtol": 1e-6, "ftol": 0.0, "maxcor": 10}
    how = {"jac": True, "method": "L-BFGS-B", "bounds": [box] * start.size, "options": options}
    return lambda: optimize.minimize(evaluate, np.asarray(start), **how)


@functools.partial(jax.jit, static_argnames="rounds")
def nonnegative_factors(data: Any, w: Any, h: Any, rounds: int = 200) -> tuple[Any, Any]:
    """Factors of `w @ h = data` from two steps for each in turns, with the other one fixed.

    Of a quadratic the longest step is known, and its gradient needs products of 8 columns alone.
    """

    def improve(gram: Any, right: Any, start: Any) -> Any:
        tx = gf.fista(1 / jnp.linalg.eigvalsh(gram)[-1])
        loss = lambda x: 0.5 * jnp.vdot(x @ gram, x) - jnp.vdot(x, right)  # noqa: E731
        return gf.minimize(loss, start, tx, 2, 0.0, prox=gf.box_constraint(0.0)).params

    def both(_: Any, factors: tuple[Any, Any]) -> tuple[Any, Any]:
        w, h = factors
        w = improve(h @ h.T, data @ h.T, w)
        return w, improve(w.T @ w, data.T @ w, h.T).T

    return jax.lax.fori_loop(0, rounds, both, (w, h))


def factors_of_digits() -> tuple[Any, Any, Any]:
    """The digits, and a random start of eight factors."""
    digits = jnp.asarray(importlib.import_module("sklearn.datasets").load_digits().data / 16)
    rng = np.random.default_rng(0)
    shapes = (digits.shape[0], 8), (8, digits.shape[1])
    return digits, *(jnp.asarray(rng.uniform(0, 0.5, shape)) for shape in shapes)


def sklearn_factors(digits: Any, w: Any, h: Any) -> tuple[Any, Any]:
    """scikit-learn's factors from the same start."""
    decomposition = importlib.import_module("sklearn.decomposition")
    model = decomposition.NMF(w.shape[1], init="custom", max_iter=2000, tol=1e-6)
    return model.fit_transform(np.asarray(digits), W=np.array(w), H=np.array(h)), model.components_


def half_squared_error(digits: Any, factors: tuple[Any, Any]) -> float:
    """What `nonnegative_factors` makes small."""
    w, h = map(np.asarray, factors)
    return float(np.sum((w @ h - np.asarray(digits)) ** 2) / 2)


def _data_table(clock: Clock) -> None:
    """Logistic regression in a box against SciPy, non-negative factors of the digits against scikit-learn."""
    logistic, start, box = breast_cancer()
    solve = jax.jit(lambda w: gf.minimize(logistic, w, bounds=box, tol=1e-6))
    scipy = scipy_bounded(logistic, start, box)
    mine, theirs = solve(start), scipy()
    difference = float(np.max(np.abs(np.asarray(mine.params) - theirs.x)))
    times = ratio_of(*turns([lambda: solve(start), scipy], 7, 3.0, clock)).ratio
    print(f"breast cancer, |w| <= 0.5: largest difference from SciPy {difference:.0e}, ", end="")
    print(f"evaluations {mine.evaluations} and {theirs.nfev}, its time / ours {times:.2f}")

    digits, w, h = factors_of_digits()
    mine, theirs = nonnegative_factors(digits, w, h), sklearn_factors(digits, w, h)
    errors = half_squared_error(digits, mine), half_squared_error(digits, theirs)
    pair = turns(
        [lambda: nonnegative_factors(digits, w, h), lambda: sklearn_factors(digits, w, h)], 7, 5.0, clock
    )
    print(f"digits in 8 non-negative factors: half the squared error {errors[0]:.1f}, ", end="")
    print(f"scikit-learn's {errors[1]:.1f}, its time / ours {ratio_of(*pair).ratio:.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.solvers", description=__doc__)
    parser.add_argument("--only", choices=("problems", "constrained", "lasso", "data"), help="one table")
    parser.add_argument(
        "--peers", nargs="+", choices=tuple(PEERS), default=tuple(PEERS), help="of the problems"
    )
    parser.add_argument(
        "--processor-time", action="store_true", help="seconds of all threads, not of the clock"
    )
    given = parser.parse_args(arguments)
    clock = time.process_time if given.processor_time else time.perf_counter
    missing = [peer for peer in given.peers if importlib.util.find_spec(peer) is None]
    for peer in missing:
        print(f"no {peer}: pip install {peer}")
    with jax.enable_x64(True):
        if given.only in (None, "problems"):
            _problem_table([peer for peer in given.peers if peer not in missing], clock)
        if given.only in (None, "constrained"):
            _constrained_table(clock)
        for name, show in (("lasso", _lasso_table), ("data", _data_table)):
            if given.only not in (None, name):
                continue
            if importlib.util.find_spec("sklearn") is None:
                print("no scikit-learn: pip install scikit-learn")
            else:
                show(clock)


if __name__ == "__main__":
    main()

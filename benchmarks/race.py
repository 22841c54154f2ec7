"""The race of the matrix optimizers on a small transformer, against a fair base.

Every method trains at every rate of a grid from the same starts on the same batches, and is judged at its
best rate. Rates warm up over 5 % of the steps and fall to zero over the last 60 %. The base is the best of
AdamW and NAdamW whose hidden matrices learn at 1, 1/8 and 1/16 of the rate: one rate flatters the others.
Under every other method all but the hidden matrices learns as in that base, by NAdamW at its best rate.

    python -m benchmarks.race                                  all methods, five rates, two starts
    python -m benchmarks.race --only adamw,kron --seeds 1      AdamW and one method
    python -m benchmarks.race --extend                         more rates where the best is the grid's end
    python -m benchmarks.race --best --seeds 3                 a third start at each method's best rate
    python -m benchmarks.race --table                          the table of the stored figures

Runs are stored by steps, method, rate and start; what is stored is not run again.

A method's figure is how many times fewer steps it takes to the base's final test loss: all steps over the
first step at which its own loss is as low. Where it does not come there, the figure is below one: the base's
first step at the method's final loss, over all steps.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from gradflow import lab

RESULTS = pathlib.Path(__file__).parent / "results" / "race.json"
RATES = tuple(2e-3 * 2**k for k in range(5))
EVERY = 10  # steps from one test loss to the next


def schedule(peak: Any, steps: int) -> Any:
    """Up over 5 %, to zero over the last 60 %."""
    up, down = max(steps // 20, 1), steps * 3 // 5
    pieces = [
        gf.schedules.linear_schedule(peak / up, peak, up - 1),
        gf.schedules.constant_schedule(peak),
        gf.schedules.linear_schedule(peak, 0.0, down),
    ]
    return gf.schedules.join_schedules(pieces, [up - 1, steps - down])


def _scaled(optimizer: Callable[..., Any], factor: float) -> Callable[[Any, Any], Any]:
    return lambda rate, rest: gf.for_matrices(gf.chain(optimizer(rate), gf.scale(factor)), optimizer(rate))


# Queries, keys and values are three linear maps in one array.
MATRICES = gf.choose_matrices({"**/qkv": gf.Matrix(split={1: 3})})
# The base's best rate for all that is not a hidden matrix.
REST_RATE = 0.032


def _matrices(*stages: Any, rest: Any) -> Any:
    return gf.for_matrices(gf.chain(*stages), rest, MATRICES)


def _stepped(stage: Callable[[], Any], *after: Any) -> Callable[[Any, Any], Any]:
    return lambda rate, rest: _matrices(stage(), *after, gf.scale_by_learning_rate(rate), rest=rest)


def _named(optimizer: Callable[..., Any], matrices: Any = MATRICES, **options: Any) -> Callable[..., Any]:
    return lambda rate, rest: optimizer(rate, others=rest, matrices=matrices, **options)


BASES: dict[str, Callable[[Any, Any], Any]] = {
    f"{name} 1/{part}" if part > 1 else name: _scaled(optimizer, 1 / part)
    for name, optimizer in (("adamw", gf.adamw), ("nadamw", gf.nadamw))
    for part in (1, 8, 16)
}
# Of a peak rate for the hidden matrices, and an optimizer for the rest. SOAP, Kron and Shampoo take the array
# of queries, keys and values whole, as their authors do.
METHODS: dict[str, Callable[[Any, Any], Any]] = {
    "muon": _stepped(gf.scale_by_muon, gf.scale_by_shape()),
    "normuon": _named(gf.normuon),
    "muon on the hyperball": lambda rate, rest: _matrices(
        gf.scale_by_muon(), gf.step_on_hyperball(rate), rest=rest
    ),
    "soap every step": _named(gf.soap, None, precondition_frequency=1),
    "soap every 10": _named(gf.soap, None),
    "soap_muon": _named(gf.soap_muon),
    "scion": _stepped(gf.scale_by_scion),
    "adamuon": _named(gf.adamuon),
    "dion2": _named(gf.dion2),
    "muown": _named(gf.muown),
    "splus": _named(gf.splus, None, precondition_frequency=10, ema_rate=0.0),
    "kron": lambda rate, rest: gf.for_matrices(gf.chain(gf.kron(rate), gf.scale(1 / 3)), rest),
    "shampoo": _named(
        gf.shampoo, None, b1=0.9, b2=0.95, eps=1e-12, grafting="adam", precondition_frequency=10
    ),
}


def losses(make: Callable[[Any, Any], Any], task: lab.Task, steps: int) -> Callable[[float, int], np.ndarray]:
    """A function of the peak rate and the seed: the test losses of a whole run, every `EVERY` steps."""

    @jax.jit
    def run(rate: jax.Array, key: jax.Array) -> jax.Array:
        optimizer = make(schedule(rate, steps), gf.nadamw(schedule(REST_RATE, steps)))
        start, batches = jax.random.split(key)
        params = task.init(start)
        examples = jax.random.randint(batches, (steps // EVERY, EVERY, task.batch_size), 0, len(task.train))

        def step(carry: Any, rows: jax.Array) -> tuple[Any, None]:
            params, state = carry
            gradients = jax.grad(task.loss_fn)(params, jnp.asarray(task.train)[rows])
            updates, state = optimizer.update(gradients, state, params)
            return (gf.apply_updates(params, updates), state), None

        def part(carry: Any, rows: jax.Array) -> tuple[Any, jax.Array]:
            carry, _ = jax.lax.scan(step, carry, rows)
            return carry, task.loss_fn(carry[0], jnp.asarray(task.test))

        return jax.lax.scan(part, (params, optimizer.init(params)), examples)[1]

    return lambda rate, seed: np.asarray(run(jnp.asarray(rate), jax.random.key(seed)))


# The test losses of one method: by rate, as text, then by start and time.
Curves = dict[str, list[list[float]]]


def fill(found: Curves, run: Callable[[float, int], np.ndarray], rates: list[float], seeds: int) -> None:
    """Adds the curves of the rates and starts that are not stored."""
    for rate in rates:
        own = found.setdefault(f"{rate:g}", [])
        own += [np.round(run(rate, seed), 4).tolist() for seed in range(len(own), seeds)]


def next_rate(found: Curves) -> float | None:
    """The rate beyond the end of the grid, where the best one is at its end."""
    rates, best = sorted(map(float, found)), float(best_rate(found))
    return 2 * best if best == rates[-1] else best / 2 if best == rates[0] else None


def best_rate(found: Curves) -> str:
    """The rate with the lowest mean final loss over the starts that every rate has."""
    seeds = min(map(len, found.values()))

    def loss(rate: str) -> float:
        return float(np.nan_to_num(np.mean([curve[-1] for curve in found[rate][:seeds]]), nan=np.inf))

    return min(found, key=loss)


def best_curves(found: Curves) -> np.ndarray:
    """The curves at the best rate, by start and time."""
    return np.asarray(found[best_rate(found)])


def first_step(curve: np.ndarray, level: float) -> float:
    """The steps to a level of loss, between two test losses by a straight line; NaN where it never comes."""
    below = np.flatnonzero(curve <= level)
    if not len(below):
        return float("nan")
    i = int(below[0])
    if i == 0:
        return float(EVERY)
    return EVERY * (i + (curve[i - 1] - level) / (curve[i - 1] - curve[i]))


def ratio(curve: np.ndarray, base: np.ndarray) -> float:
    """How many times fewer steps a method takes to the base's final loss."""
    steps = EVERY * len(base)
    if curve[-1] <= base[-1]:
        return steps / first_step(curve, base[-1])
    return first_step(base, curve[-1]) / steps


def table(curves: dict[str, Curves]) -> Iterator[str]:
    """The rows of the stored figures, with the best rate and whether it is at the end of the grid."""
    best = {name: best_curves(found) for name, found in curves.items()}
    if not any(name in BASES for name in best):
        return
    base = min((name for name in best if name in BASES), key=lambda name: best[name].mean(0)[-1])
    yield f"| method | steps ratio to {base} | each start | final loss | best rate |"
    yield "|---|---|---|---|---|"
    for name in sorted(best, key=lambda name: best[name].mean(0)[-1]):
        starts = list(zip(best[name], best[base], strict=False))
        each = [ratio(own, other) for own, other in starts]
        curve, of_base = np.mean(starts, 0)
        end = "" if next_rate(curves[name]) is None else ", the grid's end"
        yield (
            f"| {name} | {ratio(curve, of_base):.2f} | {', '.join(f'{r:.2f}' for r in sorted(each))} | "
            f"{curve[-1]:.3f} | {float(best_rate(curves[name])):.3g}{end} |"
        )


def race(name: str, curves: dict[str, Curves], task: lab.Task, arguments: argparse.Namespace) -> None:
    """Runs what is missing of one method."""
    run = losses({**BASES, **METHODS}[name], task, arguments.steps)
    found = curves.setdefault(name, {})
    rates = [float(best_rate(found))] if arguments.best and found else arguments.rates
    fill(found, run, rates, arguments.seeds)
    rate = next_rate(found) if arguments.extend else None
    while rate is not None:
        fill(found, run, [rate], arguments.seeds)
        rate = next_rate(found)


def main() -> None:
    """Runs the race and stores its curves; prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="methods, separated by commas")
    parser.add_argument("--rates", type=lambda text: [float(x) for x in text.split(",")], default=list(RATES))
    parser.add_argument("--seeds", type=int, default=2, help="starts")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--best", action="store_true", help="only the best of the stored rates")
    parser.add_argument("--extend", action="store_true", help="until the best rate is inside the grid")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    stored = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    curves = stored.setdefault(str(arguments.steps), {})
    if not arguments.table:
        task = lab.task("transformer")
        for name in arguments.only.split(",") if arguments.only else [*BASES, *METHODS]:
            began = time.perf_counter()
            race(name, curves, task, arguments)
            arguments.json.write_text(json.dumps(stored) + "\n")
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    print("\n".join(table(curves)))


if __name__ == "__main__":
    main()

"""The race of the matrix optimizers on a small transformer, against a fair base.

Every method trains at every rate of a grid from the same starts on the same batches, and is judged at its
best rate. Rates warm up over 5 % of the steps and fall to zero over the last 60 %. The base is the best of
AdamW and NAdamW whose hidden matrices learn at 1, 1/8 and 1/16 of the rate: one rate flatters the others.

    python -m benchmarks.race                                  all methods, six rates, three starts
    python -m benchmarks.race --only adamw,soap --seeds 1      AdamW and one method
    python -m benchmarks.race --table                          the table of the stored figures

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
RATES = tuple(1e-3 * 2**k for k in range(6))
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


def _scaled(optimizer: Callable[..., Any], factor: float) -> Callable[[Any], Any]:
    return lambda rate: gf.for_matrices(gf.chain(optimizer(rate), gf.scale(factor)), optimizer(rate))


def _on_hyperball(stage: Callable[[], Any]) -> Callable[[Any], Any]:
    return lambda rate: gf.for_matrices(gf.chain(stage(), gf.step_on_hyperball(rate)), gf.adamw(rate))


BASES: dict[str, Callable[[Any], Any]] = {
    f"{name} 1/{part}" if part > 1 else name: _scaled(optimizer, 1 / part)
    for name, optimizer in (("adamw", gf.adamw), ("nadamw", gf.nadamw))
    for part in (1, 8, 16)
}
METHODS: dict[str, Callable[[Any], Any]] = {
    "muon": lambda rate: gf.for_matrices(
        gf.chain(gf.scale_by_muon(), gf.scale_by_shape(), gf.scale_by_learning_rate(rate)), gf.adamw(rate)
    ),
    "normuon": gf.normuon,
    "muon on the hyperball": _on_hyperball(gf.scale_by_muon),
    "soap every step": lambda rate: gf.soap(rate, precondition_frequency=1),
    "soap every 10": gf.soap,
    "soap_muon": gf.soap_muon,
    "scion": gf.scion,
    "kron": lambda rate: gf.kron(rate / 3),
    "shampoo": lambda rate: gf.shampoo(rate, 0.9, 0.95, 1e-12, grafting="adam", precondition_frequency=10),
}


def losses(make: Callable[[Any], Any], task: lab.Task, steps: int) -> Callable[[float, int], np.ndarray]:
    """A function of the peak rate and the seed: the test losses of a whole run, every `EVERY` steps."""

    @jax.jit
    def run(rate: jax.Array, key: jax.Array) -> jax.Array:
        optimizer = make(schedule(rate, steps))
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


def curves(make: Callable[[Any], Any], task: lab.Task, steps: int, rates: Any, seeds: int) -> np.ndarray:
    """Test losses by rate, seed and time."""
    run = losses(make, task, steps)
    return np.asarray([[run(rate, seed) for seed in range(seeds)] for rate in rates])


def _best(found: np.ndarray) -> tuple[int, np.ndarray]:
    """The rate with the lowest mean final loss, and the mean curve there."""
    finals = np.nan_to_num(found[:, :, -1].mean(1), nan=np.inf)
    best = int(finals.argmin())
    return best, found[best].mean(0)


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


def table(results: dict[str, Any]) -> Iterator[str]:
    """The rows of the stored figures, with the best rate and whether it is at the end of the grid."""
    rates, found = results["rates"], {k: np.asarray(v) for k, v in results["curves"].items()}
    base = min((name for name in found if name in BASES), key=lambda name: _best(found[name])[1][-1])
    base_rate, base_curve = _best(found[base])
    yield f"| method | steps ratio to {base} | each start | final loss | best rate |"
    yield "|---|---|---|---|---|"
    ordered = sorted(found, key=lambda name: _best(found[name])[1][-1])
    for name in ordered:
        best, curve = _best(found[name])
        each = [
            ratio(own, other) for own, other in zip(found[name][best], found[base][base_rate], strict=True)
        ]
        spread = f"{min(each):.2f} to {max(each):.2f}"
        rate = f"{rates[best]:.3g}" + (", the grid's end" if best in (0, len(rates) - 1) else "")
        yield f"| {name} | {ratio(curve, base_curve):.2f} | {spread} | {curve[-1]:.3f} | {rate} |"


def main() -> None:
    """Runs the race and stores its curves; prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="methods, separated by commas; the base is always among them")
    parser.add_argument("--rates", type=lambda text: [float(x) for x in text.split(",")], default=list(RATES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    if not arguments.table:
        task = lab.task("transformer")
        asked = arguments.only.split(",") if arguments.only else [*BASES, *METHODS]
        settings = {"steps": arguments.steps, "rates": arguments.rates, "seeds": arguments.seeds}
        stored = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        if {k: stored.get(k) for k in settings} != settings:
            stored = {**settings, "curves": {}}
        for name in asked:
            began = time.perf_counter()
            make = {**BASES, **METHODS}[name]
            found = curves(make, task, arguments.steps, arguments.rates, arguments.seeds)
            stored["curves"][name] = np.round(found, 4).tolist()
            arguments.json.write_text(json.dumps(stored) + "\n")
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    print("\n".join(table(json.loads(arguments.json.read_text()))))


if __name__ == "__main__":
    main()

"""Measures what was once behind a peer on a CPU: steps, losses, solves, and the compilation of steps.

`python -m benchmarks.behind`, or some of it, as in `--only muon,lbfgs`. Compilation is processor time of
tracing, lowering and compiling together, on leaves of the shapes of small transformers. Losses are in
processor time, too.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from benchmarks import lbfgs, losses, muon, steps
from benchmarks.exact import kinds_of_kernels
from benchmarks.measure import ratio_of
from benchmarks.programs import both
from benchmarks.rows import Row, Skipped, line
from gradflow._rules._traced_once import forget

STEPS = (
    "rprop", "galore", "noisy_sgd", "adabelief", "adan", "adopt", "acprop", "cocob", "dadapt_adamw",
    "momo_adam", "optimistic_gradient_descent", "optimistic_adam_v2",
)  # fmt: skip
LOSSES = ("log_cosh", "sparsemax_loss", "triplet_margin_loss", "softmax_cross_entropy_with_integer_labels")
SHAPES = ((64, 192), (192,), (64, 64), (64,), (64, 256), (256,), (256, 64), (64,))


def _steps() -> Iterator[Row]:
    for name in STEPS:
        leaves, size = (8, 250_000) if name in steps.HEAVY else (16, 490_000)
        yield steps.step_row(name, *steps.pair(name), leaves, size, 12)


def _losses() -> Iterator[Row]:
    arguments = losses.cases(4096, 100)
    for name in LOSSES:
        yield losses.loss_row(name, arguments[name], 60, time.process_time, calls=10)


def _muon() -> Iterator[Row]:
    yield next(muon.muon(False, False))  # the step; the others are traces


def _compiling() -> Iterator[Row]:
    for leaves, runs in ((16, 6), (80, 3), (300, 2)):
        for name in ("adamw", "clip + adamw"):
            yield compiling(name, leaves, runs)


GROUPS: dict[str, Callable[[], Iterator[Row | Skipped]]] = {
    "steps": _steps,
    "losses": _losses,
    "muon": _muon,
    "lbfgs": lbfgs.against_backtracking,
    "compile": _compiling,
}


def compiling(name: str, leaves: int, runs: int) -> Row:
    """Compares the processor time from a function to its executable, in turns."""
    like = {f"layer{i}": jax.ShapeDtypeStruct(SHAPES[i % len(SHAPES)], jnp.float32) for i in range(leaves)}
    seconds: list[list[float]] = [[], []]
    kinds = [0, 0]
    for turn in range(runs + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            jax.clear_caches()
            forget()
            gc.collect()
            gc.freeze()
            program = both(*(factory() for factory in steps.PAIRS[name]), like)[which]
            _ = program.state_shapes
            start = time.process_time()
            compiled = program.compiled
            took = time.process_time() - start
            gc.unfreeze()
            if turn:
                seconds[which].append(took)
            else:  # which loads modules
                kinds[which] = kinds_of_kernels(compiled.as_text())
    exact = {"kinds": (kinds[0], kinds[1])}
    return Row(name, f"trace, lower and compile, {leaves} leaves", ratio_of(*seconds), exact=exact)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.behind", description=__doc__)
    parser.add_argument("--only", default=",".join(GROUPS), help=f"groups of rows: {', '.join(GROUPS)}")
    chosen = parser.parse_args(arguments).only.split(",")
    for group in chosen:
        if group not in GROUPS:
            parser.error(
                f"argument '--only' must name groups of rows; got '{group}'. There are {', '.join(GROUPS)}"
            )
    for group in chosen:
        for row in GROUPS[group]():
            print(line(row), flush=True)


if __name__ == "__main__":
    main()

"""One table of the methods of the race: error, state, time of a step and of compilation, steps to a loss.

    python -m benchmarks.frontier            what is exact or stored; nothing is timed
    python -m benchmarks.frontier --compile  compilation against AdamW's, in processor time
    python -m benchmarks.frontier --step     a step against AdamW's, in processor time; for an idle machine
    python -m benchmarks.frontier --bars     figures of Newton-Schulz and Muon beside their bars, instead

The error is the largest relative difference to a stored trajectory or the rule in NumPy, in float64
(`benchmarks.oracle_errors`). State is that of a layer 512 wide. Compilation is of 100 matrices of two
shapes, trace to executable, in the median of three turns with AdamW's; "in stacks" is that of `stacked`
around the method. A step is six layers of 512 x 512 with 4096 rows, forward and backward included. Set
OPENBLAS_NUM_THREADS=1: on a busy machine threads make a QR 150 times as slow. Steps ratios and rates are
the stored ones of the race.
"""

import argparse
import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from benchmarks import matrix_bars, race
from benchmarks.exact import nbytes
from benchmarks.oracle_errors import oracle_error
from gradflow._rules._traced_once import forget

NOT_MEASURED = "not measured"
WIDTH, ROWS = 512, 4096
LAYER = {
    name: jax.ShapeDtypeStruct((fan_in * WIDTH, fan_out * WIDTH), jnp.float32)
    for name, fan_in, fan_out in (("qkv", 1, 3), ("out", 1, 1), ("up", 1, 4), ("down", 4, 1))
}
# Timed as the optimizer of all parameters; the bases as the race has them.
TIMED: dict[str, Callable[[], Any]] = {
    "adamw": lambda: gf.adamw(1e-3),
    "muon": lambda: gf.muon(1e-3),
    "normuon": lambda: gf.normuon(1e-3),
    "muon on the hyperball": lambda: gf.chain(gf.scale_by_muon(), gf.step_on_hyperball(1e-3)),
    "scion": lambda: gf.scion(1e-3),
    "soap every step": lambda: gf.soap(1e-3, precondition_frequency=1),
    "soap every 10": lambda: gf.soap(1e-3),
    "soap_muon": lambda: gf.soap_muon(1e-3),
    "adamuon": lambda: gf.adamuon(1e-3),
    "dion2": lambda: gf.dion2(1e-3),
    "muown": lambda: gf.muown(1e-3),
    "splus": lambda: gf.splus(1e-3, precondition_frequency=10),
    "kron": lambda: gf.kron(1e-3, preconditioner_update_probability=0.1),
    "shampoo": lambda: gf.shampoo(1e-3, 0.9, 0.95, 1e-12, precondition_frequency=10, grafting="adam"),
}


def optimizer(name: str) -> Any:
    """A method of the race at one rate."""
    return {**race.BASES, **race.METHODS}[name](1e-3, gf.nadamw(1e-3))


def timed_optimizer(name: str) -> Any:
    """A method at one rate, as it is timed."""
    return TIMED[name]() if name in TIMED else optimizer(name)


def state_bytes(name: str) -> float:
    """Bytes of state per parameter of the layer."""
    return nbytes(jax.eval_shape(optimizer(name).init, LAYER)) / sum(x.size for x in LAYER.values())


def compilation(name: str, *, in_stacks: bool = False) -> Callable[[], float]:
    """A function that returns the processor time to compile a method, or `stacked` around it.

    Nothing traced or compiled before is used again.
    """
    shapes = [(64, 64), (64, 256)] * 50
    params = {f"{i}": jax.ShapeDtypeStruct(shape, jnp.float32) for i, shape in enumerate(shapes)}
    tx = gf.stacked(timed_optimizer(name)) if in_stacks else timed_optimizer(name)
    state = jax.eval_shape(tx.init, params)

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gf.apply_updates(params, updates), state

    def timed() -> float:
        jax.clear_caches()
        forget()
        gc.collect()
        began = time.process_time()
        jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile()
        return time.process_time() - began

    return timed


def compilation_cells(name: str, turns: int) -> tuple[str, str]:
    """The medians of a method's compilation over AdamW's, leaf by leaf and in stacks, taken in turn.

    "-" stands for a method that `stacked` refuses. The first turn, which imports modules, does not count.
    """
    runs = [compilation("adamw"), compilation(name)]
    with contextlib.suppress(ValueError):
        runs.append(compilation(name, in_stacks=True))
    found = np.asarray([[run() for run in runs] for _ in range(turns + 1)])[1:]
    leaves, *stacks = (f"{ratio:.1f}" for ratio in np.median(found[:, 1:] / found[:, :1], axis=0))
    return leaves, stacks[0] if stacks else "-"


def step_of(name: str) -> Callable[[], float]:
    """A function that takes a step and returns its processor time."""
    keys = jax.random.split(jax.random.key(0), 7)
    params = {f"{i}": jax.random.normal(keys[i], (WIDTH, WIDTH)) / WIDTH**0.5 for i in range(6)}
    x = jax.random.normal(keys[6], (ROWS, WIDTH))
    tx = timed_optimizer(name)

    def loss(params: Any) -> jax.Array:
        y = x
        for w in params.values():
            y = jnp.tanh(y @ w)
        return jnp.mean(y * y)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return gf.apply_updates(params, updates), state

    held = [params, tx.init(params)]

    def timed() -> float:
        began = time.process_time()
        held[:] = jax.block_until_ready(step(*held))
        return time.process_time() - began

    timed()
    return timed


def step_ratio(name: str, turns: int = 20) -> float:
    """The time of `turns` steps over AdamW's, taken in turn; refreshes among them count."""
    runs = [step_of(name), step_of("adamw")]
    found = np.asarray([[run() for run in runs] for _ in range(turns)])
    return float(found[:, 0].mean() / np.median(found[:, 1]))


def steps_cells(curves: dict[str, race.Curves], name: str) -> tuple[str, str]:
    """The steps ratio with its spread, and the best rate; of runs that are not stored it says so."""
    if name not in curves:
        return NOT_MEASURED, NOT_MEASURED
    best = {other: race.best_curves(found) for other, found in curves.items()}
    base = min((other for other in best if other in race.BASES), key=lambda other: best[other].mean(0)[-1])
    starts = list(zip(best[name], best[base], strict=False))
    each = sorted(race.ratio(own, of_base) for own, of_base in starts)
    spread = f" ({each[0]:.2f} - {each[-1]:.2f})" if len(each) > 1 else " (one start)"
    return f"{race.ratio(*np.mean(starts, 0)):.2f}{spread}", rate_cell(curves[name])


def rate_cell(found: race.Curves) -> str:
    """The best rate, and whether it is at the end of its grid."""
    end = ", the only one" if len(found) == 1 else "" if race.next_rate(found) is None else ", its end"
    return f"{float(race.best_rate(found)):.3g}{end}"


HEADS = (
    "method", "oracle error", "state, bytes per parameter", "step / AdamW's", "compilation / AdamW's",
    "in stacks", "steps ratio, 300", "best rate", "steps ratio, 1000", "best rate",
)  # fmt: skip


def rows(with_steps: bool, with_compilation: bool) -> Iterator[tuple[str, ...]]:
    """The cells of each method."""
    stored = json.loads(race.RESULTS.read_text())
    for name in [*race.BASES, *race.METHODS]:
        yield (
            name,
            f"{oracle_error(name):.0e}",
            f"{state_bytes(name):.2f}",
            f"{step_ratio(name):.2f}" if with_steps else NOT_MEASURED,
            *(compilation_cells(name, turns=3) if with_compilation else [NOT_MEASURED] * 2),
            *steps_cells(stored["300"], name),
            *steps_cells(stored.get("1000", {}), name),
        )


def line(cells: tuple[str, ...]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--step", action="store_true", help="time steps, too")
    parser.add_argument("--bars", action="store_true", help="figures beside their bars, instead")
    parser.add_argument("--compile", action="store_true", help="time compilations, too")
    given = parser.parse_args()
    if given.bars:
        for text in matrix_bars.lines():
            print(text, flush=True)
        return
    print(line(HEADS), line(("---",) * len(HEADS)), sep="\n")
    for cells in rows(given.step, given.compile):
        print(line(cells), flush=True)


if __name__ == "__main__":
    main()

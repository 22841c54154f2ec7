"""Measures costs without large arrays: tracing, compiling, dispatch, init, eager steps, import."""

import gc
import statistics
import subprocess
import sys
from collections.abc import Iterator

import jax
import optax

import gradflow as gf
from benchmarks.exact import equations
from benchmarks.measure import interleaved, ratio_of, repeated
from benchmarks.programs import Program, arrays, both, compared, shapes, stepping
from benchmarks.rows import Row
from benchmarks.steps import PAIRS, pair


def tracing(quick: bool, every: bool) -> Iterator[Row]:
    """Measures tracing, lowering and compiling a step over many leaves, and the size of the program."""
    leaves, runs = (100, 3) if quick else (1000, 4)
    like = shapes(leaves, 4)
    for name in ("adamw", "clip + adamw"):
        seconds: dict[str, list[list[float]]] = {what: [[], []] for what in ("trace", "lower", "compile")}
        programs: dict[int, Program] = {}
        for turn in range(runs + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                jax.clear_caches()
                gc.collect()
                gc.freeze()  # existing objects are not scanned again, as in a fresh process
                program = programs[which] = both(PAIRS[name][0](), PAIRS[name][1](), like)[which]
                _ = program.compiled if turn == 1 else program.lowered
                for what, took in (
                    program.seconds.items() if turn else ()
                ):  # without the first turn, which loads modules
                    seconds[what][which].append(took)
                gc.unfreeze()
            if turn == 1:  # once, since compiling takes ten seconds and varies little
                compiled = [programs[0], programs[1]]
        for what, times in seconds.items():
            exact = compared(compiled) if what == "compile" else None
            yield Row(name, f"{what}, {leaves} leaves", ratio_of(*times), exact=exact)
        if name == "adamw" and not quick:
            yield calls_row(name, compiled, leaves)  # here, where the programs are compiled


def calls_row(name: str, programs: list[Program], leaves: int) -> Row:
    """Measures jitted calls on small leaves, in the form in which users write them."""
    calls = [repeated(program.start().as_users_call, 5) for program in programs]
    ratio = interleaved(*calls, 20)
    return Row(name, f"jitted call, {leaves} leaves", ratio._replace(seconds=ratio.seconds / 5))


def dispatch(quick: bool, every: bool) -> Iterator[Row]:
    """Measures a jitted call on many small leaves: the cost of flattening and checking the arguments.

    The call on 1000 leaves is measured in `tracing`, which compiles it.
    """
    for leaves in (10, 100):
        yield calls_row("adamw", both(*pair("adamw"), shapes(leaves, 4)), leaves)


def init(quick: bool, every: bool) -> Iterator[Row]:
    """Measures building a transformation and an eager `init`, and the equations of a traced one."""
    for name in ("adamw", "clip + adamw"):
        builds = [repeated(factory, 200) for factory in PAIRS[name]]
        ratio = interleaved(*builds, 20)
        yield Row(name, "build", ratio._replace(seconds=ratio.seconds / 200))
    for name in ("adamw", "clip + adamw", "lion", "sgd momentum"):
        for leaves in (10, 100):
            params = arrays(shapes(leaves, 100))
            made = [factory() for factory in PAIRS[name]]
            runs = [lambda tx=tx, params=params: tx.init(params) for tx in made]
            ours, peer = (equations(jax.make_jaxpr(tx.init)(params).jaxpr) for tx in made)
            ratio = interleaved(*runs, 10 if quick else 20)
            yield Row(name, f"eager init, {leaves} leaves", ratio, exact={"equations": (ours, peer)})


def eager(quick: bool, every: bool) -> Iterator[Row]:
    """Measures eager steps, as in a notebook without jit."""
    params = arrays(shapes(10, 100))
    for name in ("adam", "adamw", "lion", "sgd"):
        runs = []
        for tx, apply in zip(pair(name), (gf.apply_updates, optax.apply_updates), strict=True):
            step, state = stepping(tx, apply, {}), tx.init(params)
            runs.append(lambda step=step, state=state: step(params, state, params)[0])
        yield Row(name, "eager step, 10 leaves", interleaved(*runs, 20 if quick else 40))
    for leaves in (10, 100):
        tree = arrays(shapes(leaves, 100))
        ratio = interleaved(lambda t=tree: gf.tree.norm(t), lambda t=tree: optax.tree.norm(t), 20)
        yield Row("tree.norm", f"eager, {leaves} leaves", ratio)


def importing(quick: bool, every: bool) -> Iterator[Row]:
    """Measures the import beyond `import jax, jax.numpy` in fresh processes, alone and with an optimizer.

    The times are processor time, which varies less than wall time on a busy machine.
    """
    script = (
        "import jax, jax.numpy, time; a = time.process_time(); import {0} as x; {1}; "
        "print(1e3 * (time.process_time() - a))"
    )
    for figure, then in (("import, ms beyond jax", "x"), ("import and adamw(1e-3), ms", "x.adamw(1e-3)")):
        middle = []
        for name in ("gradflow", "optax"):
            command = [sys.executable, "-c", script.format(name, then)]
            times = []
            for _ in range(2 if quick else 5):
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                times.append(float(done.stdout))
            middle.append(statistics.median(times))
        yield Row("import", figure, None, *middle)

"""Measures steps on an accelerator against its copies and matrix products. `python -m benchmarks.gpu --help`.

    elementwise rules   fraction of the bandwidth of a device copy, for the minimal bytes of a step:
                        the gradient is read, parameters and state are read and written, once each
                        (the clip's norm reads the gradient once more)
    fewer bits          the same, against the optimizer without; `--dtypes bf16` for master_params.
                        Their peak is in models: arguments, results that take no argument's place, scratch
    muon                fraction of the rate of a bfloat16 matrix product

The copy, the product and each peer are timed in the same turns as gradflow. Goals: 90 % of the copy, 60 % of
the product where parameters are bfloat16, and no scratch memory as large as the model.
"""

import argparse
import functools
import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks import matrix_steps, rows
from benchmarks.exact import nbytes, program_figures, scratch
from benchmarks.limit import Limit
from benchmarks.measure import against_limits, repeated
from benchmarks.muon import operations, product
from benchmarks.programs import Program, both
from benchmarks.rows import Row, Skipped
from benchmarks.steps import PAIRS, pair

LEAVES = 64
DTYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
GOALS = {"copy": 0.9, "matmul": 0.6}  # of the limit's rate
LARGEST_SCRATCH = 0.5  # models

# The rows, and the name of each in `steps.PAIRS`.
RULES = {
    "adamw": "adamw",
    "lion": "lion",
    "clip + adamw": "clip + adamw",
    "apply_if_finite": "apply_if_finite(adamw)",
    "lamb": "lamb",
    "muon": "muon",
    "accumulate": "MultiSteps(adamw, 4)",
}

# States and parameters in fewer bits, against the same optimizer without.
CODED = {
    "8-bit adamw": lambda: gf.quantize_state(gf.adamw(1e-3)),
    "adamw of a bf16 mean": lambda: gf.cast_state(gf.adamw(1e-3), {"mean": "bfloat16"}),
    "adamw of master_params": lambda: gf.master_params(gf.adamw(1e-3)),
}

NAMES = (*RULES, *CODED)

# What `--quick` takes of them at 1 B parameters: one rule that moves bytes, one that multiplies matrices.
QUICK_LARGE = ("adamw", "muon")


def _made(name: str, dtype: Any) -> tuple[Any, Any]:
    """Makes gradflow's and Optax's optimizer; gradflow's Muon multiplies in the parameters' dtype."""
    if name in CODED:
        return CODED[name](), gf.adamw(1e-3)
    if name == "muon":
        ours = gf.muon(0.02, ns_dtype=jnp.bfloat16 if dtype == jnp.bfloat16 else None)
        return ours, optax.contrib.muon(0.02)
    if RULES[name] not in PAIRS:
        return pair(RULES[name])
    make_ours, make_peer = PAIRS[RULES[name]]
    return make_ours(), make_peer()


def model(parameters: int, dtype: Any) -> Any:
    """Shapes of equal square matrices with about this many numbers; large sides are multiples of 128."""
    side = max(1, round((parameters / LEAVES) ** 0.5))
    step = 128 if side > 512 else 8 if side > 8 else 1
    side = side // step * step
    return {f"layer{i}": jax.ShapeDtypeStruct((side, side), dtype) for i in range(LEAVES)}


def copying(count: int, dtype: Any) -> tuple[Callable[[], Any], int]:
    """Returns a copy on the device, and the bytes that it reads and writes."""
    x = jnp.zeros(count, dtype)
    compiled = jax.jit(jnp.copy).lower(x).compile()
    return functools.partial(compiled, x), 2 * x.nbytes


def kernels_in(profile: Any, steps: int) -> float | None:
    """Kernels and copies per step from a profile; None if the profile has no device."""
    streams = [
        line
        for plane in profile.planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
    ]
    return sum(1 for line in streams for _ in line.events) / steps if streams else None


def kernels_of(program: Program, steps: int) -> float:
    """Kernels per step: those that the device ran, or without a device profile those of the program."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(repeated(program, steps)())
        for path in Path(folder).rglob("*.xplane.pb"):
            found = kernels_in(jax.profiler.ProfileData.from_file(str(path)), steps)
            if found:
                return found
    return program_figures(program.compiled.as_text())["kernels"]


def _torch_step(like: Any, dtype: Any) -> Callable[[int], Callable[[], Any]] | None:
    """Returns torch's fused AdamW on the same leaves, for a number of steps; None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if (device == "cuda") != (jax.default_backend() == "gpu"):
        return None
    kind = torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32
    leaves = []
    for leaf in jax.tree.leaves(like):
        p = torch.rand(leaf.shape, device=device, dtype=kind).requires_grad_()
        p.grad = torch.rand(leaf.shape, device=device, dtype=kind) - 0.5
        leaves.append(p)
    step = torch.optim.AdamW(leaves, lr=1e-3, weight_decay=1e-4, fused=True).step

    def run(times: int) -> Callable[[], Any]:
        def steps() -> None:
            for _ in range(times):
                step()
            if device == "cuda":
                torch.cuda.synchronize()

        return steps

    return run


def measured(name: str, parameters: int, dtype_name: str, runs: int, repeat: int) -> Iterator[Row | Skipped]:
    """Measures a rule at a size against Optax, and AdamW against torch; skipped if memory is too small."""
    dtype = DTYPES[dtype_name]
    like = model(parameters, dtype)
    count = sum(x.size for x in jax.tree.leaves(like))
    figure = f"{count / 1e6:,.4g} M {dtype_name}"
    try:
        yield from _measured(name, figure, like, dtype, runs, repeat)
    except Exception as error:  # jax and torch have no common type for it
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error):
            raise
        yield Skipped(f"{name}, {figure}", "the device's memory is too small")


def _measured(name: str, figure: str, like: Any, dtype: Any, runs: int, repeat: int) -> Iterator[Row]:
    turns = 4 if name == "accumulate" else 1
    ours, peer = _made(name, dtype)
    programs = both(ours, peer, like)
    steps = turns * repeat
    size = nbytes(like)
    if name == "muon":
        run, work = product(512 if jax.default_backend() == "cpu" else 8192, jnp.bfloat16)
        limit = Limit("matmul", repeated(run, repeat), operations(like) / work)
    else:
        # Three of four accumulating steps do not run the rule: each reads the gradient and the sum, and
        # writes the sum.
        total = _moved(programs[0], name)
        run, moved = copying(size // jnp.dtype(dtype).itemsize, dtype)
        limit = Limit("copy", repeated(run, repeat), total / moved)
    exact: dict[str, tuple[float | None, float | None]] = {}
    ready = [repeated(program.start(), steps) for program in programs]
    peers, names = ready[1:], ["plain" if name in CODED else "Optax"]
    if name == "adamw" and (torch_steps := _torch_step(like, dtype)):
        peers.append(torch_steps(steps))
        names.append("torch fused")
    ratios, found = against_limits(ready[0], peers, [limit], runs)
    temporary = [scratch(program.compiled) for program in programs]
    sizes = [None if x is None else x / size for x in temporary]
    exact["scratch"] = (sizes[0], sizes[1])
    if name in CODED:
        exact["peak"] = (peak(programs[0].compiled, size), peak(programs[1].compiled, size))
    exact["kernels"] = (kernels_of(programs[0], turns), kernels_of(programs[1], turns))
    for program in programs:
        program.stop()
    for against, ratio in zip(names, ratios, strict=True):
        each = ratio._replace(seconds=ratio.seconds / steps)
        first = against == names[0]
        yield Row(name, figure, each, against=against, limits=found, exact=exact if first else None)


def peak(compiled: Any, size: int) -> float | None:
    """Memory that a program needs at once, arguments included, as a multiple of `size` bytes."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return float(found.argument_size_in_bytes + results + found.temp_size_in_bytes) / size


def _moved(program: Program, name: str) -> int:
    """The minimal bytes of a run's unit: a step, or the four steps of an accumulation."""
    grads = nbytes(program.like)
    if name != "accumulate":
        # The norm and the test for finiteness read the gradient once more.
        return program.moved + (grads if name.startswith(("clip", "apply_if_finite")) else 0)
    state = program.state_shapes
    sums = nbytes(state.acc_grads)
    return 4 * (grads + 2 * sums) + 2 * (nbytes(program.like) + nbytes(state) - sums)


def verdicts(measured: list[Row | Skipped]) -> list[str]:
    """Returns a line for each row with a limit: whether it meets its goal."""
    lines = []
    for row in measured:
        if not isinstance(row, Row) or row.exact is None:
            continue
        for name, times in (row.limits or {}).items():
            if name == "matmul" and "bf16" not in row.figure:
                continue
            met = 1 / times >= GOALS[name]
            lines.append(
                f"{row.name}, {row.figure}: {100 / times:.0f} % of the {name}'s rate, "
                f"goal {100 * GOALS[name]:.0f} %: {'met' if met else 'missed'}"
            )
        used = row.exact["scratch"][0]
        if used is not None and row.name != "muon":
            lines.append(
                f"{row.name}, {row.figure}: scratch {used:.3g} models: "
                f"{'met' if used < LARGEST_SCRATCH else 'missed'}"
            )
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer turns, 1 B for two rules or for --only")
    parser.add_argument("--parameters", metavar="N,...", help="default: 100 M and 1 B, or 1 M without a GPU")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--only", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--runs", type=int, default=10, help="turns")
    parser.add_argument("--repeat", type=int, default=5, help="steps per turn, dispatched without waiting")
    parser.add_argument("--matrices", metavar="SIDE", type=int, help="methods for matrices, 8 leaves")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--table", metavar="FILE")
    given = parser.parse_args(arguments)
    wanted = given.only.split(",") if given.only else NAMES
    for name in wanted:
        if name not in NAMES:
            parser.error(f"argument '--only' must name rules; got '{name}'. There are {', '.join(NAMES)}")
    # No preallocation, since torch uses the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    backend = jax.default_backend()
    default = "1000000" if backend == "cpu" else "100000000,1000000000"
    facts = {
        "versions": {"gradflow": gf.__version__, "optax": optax.__version__, "jax": jax.__version__},
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "backend": backend,
    }
    print(f"{facts['device']} ({backend}); {facts['versions']}", flush=True)
    if backend == "cpu":
        print("No accelerator: this only checks that the code runs.", flush=True)
    if given.matrices:
        for line in matrix_steps.lines(8, given.matrices, 4 if given.quick else given.runs):
            print(line, flush=True)
        return
    found: list[Row | Skipped] = []
    runs, repeat = (4, 3) if given.quick else (given.runs, given.repeat)
    sizes = (given.parameters or default).split(",")
    for parameters in sizes:
        for dtype in given.dtypes.split(","):
            for name in wanted:
                if given.quick and not given.only and parameters != sizes[0] and name not in QUICK_LARGE:
                    continue
                for row in measured(name, int(parameters), dtype, runs, repeat):
                    found.append(row._replace(group="gpu"))
                    print(rows.line(row), flush=True)
    if backend != "cpu":
        print("\n".join(["", *verdicts(found)]))
    if given.json:
        rows.write_json(given.json, found, facts)
    if given.table:
        Path(given.table).write_text(f"{facts}\n\n{rows.markdown(found)}")


if __name__ == "__main__":
    main()

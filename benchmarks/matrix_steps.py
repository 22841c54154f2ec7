"""Steps of the methods for matrices on an accelerator; `python -m benchmarks.gpu --matrices`."""

import functools
import gc
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.exact import nbytes
from benchmarks.frontier import TIMED
from benchmarks.measure import repeated, turns
from benchmarks.programs import Program

# Each group in the order of its memory, since an allocator's peak can be seen only where it rises.
METHODS = (
    "muon", "scion", "normuon", "kron", "splus", "shampoo", "soap every 10", "soap_muon",
)  # fmt: skip
IN_STACKS = ("muon", "kron", "shampoo", "soap every 10")
STEPS = 20  # two periods of the methods that refresh a basis every ten steps
HEAD = (
    "| method | a step over adamw's | takes | memory, models | allocator's peak, models | compilation |\n"
    "|---|---|---|---|---|---|"
)


def programs(like: Any) -> Iterator[tuple[str, Program]]:
    """The name and the step of each row; AdamW's first."""
    yield "adamw", Program(TIMED["adamw"](), gf.apply_updates, like)
    yield "Optax muon", Program(optax.contrib.muon(1e-3), optax.apply_updates, like)
    for name in METHODS:
        yield name, Program(TIMED[name](), gf.apply_updates, like)
    for name in IN_STACKS:
        yield f"{name}, in stacks", Program(gf.stacked(TIMED[name]()), gf.apply_updates, like)


def lines(leaves: int, side: int, runs: int) -> Iterator[str]:
    """The table, line by line. A step is the mean of twenty, in the median of turns with AdamW's.

    Memory is what the program needs at once by its own analysis: parameters, state, gradients and scratch.
    The allocator's peak has what libraries ask for as well; `<` where an earlier row's was higher.
    """
    like = {f"layer{i}": jax.ShapeDtypeStruct((side, side), jnp.float32) for i in range(leaves)}
    model = nbytes(like)
    yield HEAD
    adamw = None
    for name, program in programs(like):
        _ = program.compiled
        seconds = sum(program.seconds.values())
        before = _peak()
        run = repeated(program.start(), STEPS)
        jax.block_until_ready(run())
        after = _peak()
        peak = "" if after is None else f"{'< ' if after == before else ''}{after / model:.1f}"
        adamw = adamw or program
        yield _line(name, _times(repeated(adamw, STEPS), run, runs), _memory(program, model), peak, seconds)
        if program is not adamw:
            program.stop()
        gc.collect()
    yield from _torch_line(like, repeated(adamw, STEPS) if adamw else None, runs)


def _times(adamw: Callable[[], Any], run: Callable[[], Any], runs: int) -> tuple[float, float]:
    """The ratio of the medians, and the method's seconds per step."""
    theirs, mine = (statistics.median(times) for times in turns([adamw, run], runs))
    return mine / theirs, mine / STEPS


def _memory(program: Program, model: int) -> str:
    found = program.compiled.memory_analysis()
    if found is None:
        return ""
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return f"{(found.argument_size_in_bytes + results + found.temp_size_in_bytes) / model:.1f}"


def _line(name: str, times: tuple[float, float], memory: str, peak: str, seconds: float | None) -> str:
    ratio, each = times
    compilation = "" if seconds is None else f"{seconds:.1f} s"
    return f"| {name} | {ratio:.1f} | {1e3 * each:.2f} ms | {memory} | {peak} | {compilation} |"


def _peak() -> int | None:
    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats["peak_bytes_in_use"]


def _torch_line(like: Any, adamw: Callable[[], Any] | None, runs: int) -> Iterator[str]:
    """torch's Muon, where torch has it and the same device."""
    try:
        import torch

        make = functools.partial(torch.optim.Muon, lr=1e-3)
    except (ImportError, AttributeError):
        return
    if torch.cuda.is_available() != (jax.default_backend() == "gpu") or adamw is None:
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = []
    for leaf in jax.tree.leaves(like):
        p = torch.rand(leaf.shape, device=device).requires_grad_()
        p.grad = torch.rand(leaf.shape, device=device) - 0.5
        params.append(p)
    step = make(params).step

    def run() -> None:
        for _ in range(STEPS):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    yield _line("torch muon", _times(adamw, run, runs), "", "", None)

"""What methods for matrices hold beside their state, compiled ahead of time, and what decompositions cost."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import gradflow as gf
from benchmarks import aot
from benchmarks.exact import nbytes

# Leaves and their side. A TPU's compiler takes minutes for larger decompositions.
SIZES: Mapping[str, tuple[int, int]] = {"h100": (8, 1024), "v5e": (4, 256)}

METHODS: Mapping[str, Callable[[], Any]] = {
    "muon": lambda: gf.muon(1e-3),
    "normuon": lambda: gf.normuon(1e-3),
    "scion": lambda: gf.scion(1e-3),
    "shampoo": lambda: gf.shampoo(1e-3, 0.9, 0.95, 1e-12, precondition_frequency=10, grafting="adam"),
    "soap": lambda: gf.soap(1e-3),
    "soap_muon": lambda: gf.soap_muon(1e-3),
    "kron": lambda: gf.kron(1e-3),
}

PARTS: Mapping[str, Callable[[Any], Any]] = {
    "product": lambda x: x @ x,
    "newton_schulz": gf.linalg.newton_schulz,
    "triangular solve": lambda x: jax.scipy.linalg.solve_triangular(x, x),
    "QR": lambda x: jnp.linalg.qr(x)[0],
    "eigh": lambda x: jnp.linalg.eigh(x)[1],
}


class MatrixRow(NamedTuple):
    """A compiled step, or one function of one matrix, with scratch in matrices of the largest statistic."""

    name: str
    scratch: float
    state: float  # in models; nan for a function
    kernels: int
    copies: int
    calls: int
    cycles: int


HEADS = ("what", "scratch, matrices", "state, models", "kernels", "copies", "calls", "cycles")


def method_row(compiler: aot.Compiler, name: str, size: tuple[int, int] | None = None) -> MatrixRow:
    """The step of a method on equal square leaves, whose gradients come from outside."""
    count, side = size or SIZES[compiler.platform]
    like = [jax.ShapeDtypeStruct((side, side), jnp.float32) for _ in range(count)]
    tx = METHODS[name]()
    state = jax.eval_shape(tx.init, like)
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    found = aot.figures(
        compiler, compiler.lower(aot.outer(tx, gf.apply_updates, {}), like, state, like, scale)
    )
    largest = max(map(nbytes, jax.tree.leaves(state)))
    return _row(name, found, largest, nbytes(state) / nbytes(like))


def part_row(compiler: aot.Compiler, name: str) -> MatrixRow:
    """One function of one matrix."""
    side = SIZES[compiler.platform][1]
    x = compiler.placed(jax.ShapeDtypeStruct((side, side), jnp.float32))
    return _row(name, aot.figures(compiler, jax.jit(PARTS[name]).lower(x)), nbytes(x), float("nan"))


def _row(name: str, found: aot.Figures, unit: int, state: float) -> MatrixRow:
    cost = found.cost
    return MatrixRow(name, found.scratch / unit, state, cost.kernels, cost.copies, cost.calls, cost.cycles)


def rows(compiler: aot.Compiler) -> Iterator[MatrixRow]:
    """All methods, then the functions of one matrix that they are made of."""
    for name in METHODS:
        yield method_row(compiler, name)
    for name in PARTS:
        yield part_row(compiler, name)


def line(row: MatrixRow | None) -> str:
    """One line of a Markdown table; None gives its head."""
    if row is None:
        return f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}"
    state = "" if row.state != row.state else f"{row.state:.2f}"
    cycles = f"{row.cycles:,}" if row.cycles else ""
    counts = f"{row.kernels} | {row.copies} | {row.calls}"
    return f"| {row.name} | {row.scratch:.2f} | {state} | {counts} | {cycles} |"

"""States in fewer bits, compiled."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

import gradflow as gf
from benchmarks.aot.cases import outer
from benchmarks.aot.platforms import Compiler
from benchmarks.aot.rows import figures
from benchmarks.exact import nbytes
from benchmarks.hlo import Cost


class StateRow(NamedTuple):
    """One form of a state: its scratch memory in models, and its cycles and bytes against float32's."""

    name: str
    scratch: float
    cycles: float
    moved: float
    kernels: int


def state_rows(compiler: Compiler, side: int = 8192) -> Iterator[StateRow]:
    """AdamW's step of one matrix with states in fewer bits, and quantized rules alone, in place of gradients.

    The cycles of a kernel that gradflow wrote are not estimated, so there are none in its rows.
    """
    like = {"w": jax.ShapeDtypeStruct((side, side), jnp.float32)}
    adamw, adam = gf.adamw(1e-3), gf.scale_by_adam()
    both = {"mean": "bfloat16", "square": "bfloat16"}
    cast = {"bfloat16 mean": {"mean": "bfloat16"}, "bfloat16 mean and square": both}
    forms = {
        "float32": adamw,
        **{name: gf.cast_state(adamw, dtypes) for name, dtypes in cast.items()},
        "8 bits": gf.quantize_state(adamw),
        "4-bit mean": gf.quantize_state(adamw, 4),
        "8 bits, the rule alone": gf.quantize_state(adam),
        "4-bit mean, the rule alone": gf.quantize_state(adam, 4),
    }
    plain: Cost | None = None
    for name, tx in forms.items():
        state = jax.eval_shape(tx.init, like)
        if name.endswith("alone"):
            step = compiler.lower(lambda g, state, tx=tx: tx.update(g, state), like, state)
        else:
            scale = jax.ShapeDtypeStruct((), jnp.float32)
            step = compiler.lower(outer(tx, gf.apply_updates, {}), like, state, like, scale)
        found = figures(compiler, step)
        plain = plain or found.cost
        cycles = found.cost.cycles / plain.cycles if plain.cycles else math.nan
        has_kernel = "tpu_custom_call" in step.as_text()
        yield StateRow(
            name,
            found.scratch / nbytes(like),
            math.nan if has_kernel or "alone" in name else cycles,
            found.cost.moved / plain.moved,
            found.cost.kernels,
        )


def line(row: StateRow | None) -> str:
    """One line of the table; that of None is its head."""
    if row is None:
        columns = f"{'scratch, models':>16} {'cycles':>7} {'moved':>7} kernels, / float32's"
        return f"{'adamw, 8192^2':<28} {columns}"
    return f"{row.name:<28} {row.scratch:>16.3f} {row.cycles:>7.3f} {row.moved:>7.3f} {row.kernels}"

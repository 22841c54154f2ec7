"""Compiled steps of an optimizer, each on the results of the one before."""

import functools
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.exact import equations, nbytes, program_figures, scratch


def shapes(leaves: int, size: int, dtype: Any = jnp.float32) -> Any:
    """A tree of equal leaves: square matrices where the size allows, else of 100 rows, else vectors."""
    root = round(size**0.5)
    shape = (root, root) if root * root == size else (100, size // 100) if size % 100 == 0 else (size,)
    return {f"layer{i}": jax.ShapeDtypeStruct(shape, dtype) for i in range(leaves)}


def arrays(like: Any, seed: int = 0) -> Any:
    """Numbers in [-0.5, 0.5) of the shapes and dtypes of a tree, each leaf a buffer of its own."""
    return jax.tree.map(lambda x: _scattered(x.shape, x.dtype, seed), like)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _scattered(shape: tuple[int, ...], dtype: Any, seed: int) -> jax.Array:
    """Knuth's multiplicative hash of the index, computed on the device."""
    place = jax.lax.iota(jnp.uint32, math.prod(shape)) + jnp.uint32(seed)
    bits = (place * jnp.uint32(2654435761)) >> 8
    return (bits.astype(jnp.float32) / 2**24 - 0.5).astype(dtype).reshape(shape)


def stepping(tx: Any, apply: Callable[..., Any], extra: Mapping[str, Any]) -> Callable[..., Any]:
    """The update and its application, as a function of parameters, state and gradients."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, **extra)
        return apply(params, updates), state

    return step


class Program:
    """A step, traced, lowered and compiled once for shapes; `start` allocates, and each call is a step.

    Parameters and state are donated; gradients come from outside and are kept. With `update_only` the program
    is the update, and its gradient is donated, as in a training step. `step` replaces the default function of
    parameters, state and gradients, which is the update and its application.
    """

    def __init__(
        self, tx: Any, apply: Callable[..., Any], like: Any, *,
        update_only: bool = False, extra: Mapping[str, Any] | None = None,
        step: Callable[..., Any] | None = None,
    ) -> None:  # fmt: skip
        self.tx, self.like, self.update_only = tx, like, update_only
        extra = extra or {}
        if update_only:
            # Donated arguments are given to results of their shape in order: the gradient to the update.
            self.function = jax.jit(lambda g, s, p: tx.update(g, s, p, **extra), donate_argnums=(0, 1))
        else:
            self.function = jax.jit(step or stepping(tx, apply, extra), donate_argnums=(0, 1))
        self.seconds: dict[str, float] = {}
        self._compiled: Any = None

    @functools.cached_property
    def state_shapes(self) -> Any:
        return jax.eval_shape(self.tx.init, self.like)

    def _timed(self, name: str, function: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = function()
        self.seconds[name] = time.perf_counter() - start
        return result

    @functools.cached_property
    def traced(self) -> Any:
        state = self.state_shapes
        return self._timed("trace", lambda: self.function.trace(self.like, state, self.like))

    @functools.cached_property
    def lowered(self) -> Any:
        traced = self.traced
        return self._timed("lower", lambda: traced.lower())

    @property
    def compiled(self) -> Any:
        # Not a cached_property: up to Python 3.11 its lock would make one program wait for another.
        if self._compiled is None:
            lowered = self.lowered
            self._compiled = self._timed("compile", lambda: lowered.compile())
        return self._compiled

    @property
    def moved(self) -> int:
        """The minimal bytes of a step: the gradient is read, parameters and state are read and written."""
        return nbytes(self.like) + 2 * (nbytes(self.like) + nbytes(self.state_shapes))

    def figures(self) -> dict[str, float | None]:
        """The exact figures of the program; memory in sizes of the model."""
        model = nbytes(self.like)
        temporary = scratch(self.compiled)
        text = program_figures(self.compiled.as_text())
        del text["kernels"]
        return {
            "scratch": None if temporary is None else temporary / model,
            "state": nbytes(self.state_shapes) / model,
            "equations": equations(self.traced.jaxpr.jaxpr),
            **text,
        }

    def start(self, grads: Any = None) -> "Program":
        """Allocates the arrays; gradients that are not donated may be shared with another program."""
        self.params = arrays(self.like, 1)
        self.grads = arrays(self.like, 2) if grads is None else grads
        self.state = jax.jit(self.tx.init)(self.params)
        return self

    def stop(self) -> None:
        """Frees the arrays, but not the program."""
        del self.params, self.grads, self.state

    def __call__(self) -> Any:
        if self.update_only:
            self.grads, self.state = self.compiled(self.grads, self.state, self.params)
            return self.grads
        self.params, self.state = self.compiled(self.params, self.state, self.grads)
        return self.params

    def as_users_call(self) -> Any:
        """A step through `jax.jit`, which flattens and checks the arguments first."""
        self.params, self.state = self.function(self.params, self.state, self.grads)
        return self.params


def both(
    ours: Any, peer: Any, like: Any, *, update_only: bool = False, extra: Mapping[str, Any] | None = None
) -> list[Program]:
    """The programs of gradflow and of Optax, the second only where there is a peer."""
    made = [(ours, gf.apply_updates), (peer, optax.apply_updates)]
    return [
        Program(tx, apply, like, update_only=update_only, extra=extra) for tx, apply in made if tx is not None
    ]


def compared(programs: list[Program]) -> dict[str, tuple[float | None, float | None]]:
    """Returns the exact figures side by side, and compiles the programs in parallel if needed."""
    for program in programs:
        _ = program.lowered  # in this thread, since JAX's settings are local to a thread
    with ThreadPoolExecutor(len(programs)) as threads:
        list(threads.map(lambda program: program.compiled, programs))
    ours, *peers = [program.figures() for program in programs]
    return {name: (ours[name], peers[0][name] if peers else None) for name in ours}

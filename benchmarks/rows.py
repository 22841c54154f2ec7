"""What is measured: each row gives figures for gradflow and for Optax."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradflow as gf
from benchmarks.measure import Ratio, equations, interleaved, repeated


class Row(NamedTuple):
    """One line of the table. Clock rows have a ratio; exact rows have two figures and no clock."""

    name: str
    figure: str
    ratio: Ratio | None = None
    ours: float | None = None
    peer: float | None = None


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "adamw": (lambda: gf.adamw(1e-3), lambda: optax.adamw(1e-3)),
    "clip + adamw": (
        lambda: gf.chain(gf.clip_by_global_norm(1.0), gf.adamw(1e-3)),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    ),
    "apply_if_finite(adamw)": (
        lambda: gf.apply_if_finite(gf.adamw(1e-3), 3),
        lambda: optax.apply_if_finite(optax.adamw(1e-3), 3),
    ),
    "MultiSteps(adamw, 4)": (
        lambda: gf.MultiSteps(gf.adamw(1e-3), 4),
        lambda: optax.MultiSteps(optax.adamw(1e-3), 4),
    ),
    "lion": (lambda: gf.lion(1e-4), lambda: optax.lion(1e-4)),
    "sgd momentum": (lambda: gf.sgd(0.1, momentum=0.9), lambda: optax.sgd(0.1, momentum=0.9)),
    "rmsprop": (lambda: gf.rmsprop(1e-3), lambda: optax.rmsprop(1e-3)),
}


def _tree(leaves: int, size: int) -> Any:
    return {f"layer{i}": jnp.full((size,), 0.5) for i in range(leaves)}


def _update(tx: Any) -> Any:
    """The update alone, its gradient and state donated: what the optimizer itself costs."""
    return jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(0, 1))


def _step(tx: Any, apply: Any) -> Any:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state

    return step


class _Running:
    """A compiled step that feeds its donated results back, so that every call is a real step."""

    def __init__(self, tx: Any, apply: Any, leaves: int, size: int) -> None:
        self.params = _tree(leaves, size)
        self.state = tx.init(self.params)
        self.grads = _tree(leaves, size)
        self.step = jax.jit(_step(tx, apply), donate_argnums=(0, 1))

    def __call__(self) -> Any:
        self.params, self.state = self.step(self.params, self.state, self.grads)
        return self.params


class _Updating:
    """An update whose gradient is donated, as that of a training step is, which nobody else holds.

    Its result is the gradient of the next call.
    """

    def __init__(self, tx: Any, leaves: int, size: int) -> None:
        self.params = _tree(leaves, size)
        self.state = tx.init(self.params)
        self.grads = _tree(leaves, size)
        self.update = _update(tx)

    def __call__(self) -> Any:
        self.grads, self.state = self.update(self.grads, self.state, self.params)
        return self.grads


def steps(quick: bool) -> Iterator[Row]:
    """A donated, jitted step on large leaves, the update alone, and its scratch memory.

    The step gets its gradients from outside, where they live on: what branches on them must copy them.
    """
    leaves, size = (16, 250_000) if quick else (64, 1_000_000)
    for name, (ours, peer) in PAIRS.items():
        runners = (
            _Running(ours(), gf.apply_updates, leaves, size),
            _Running(peer(), optax.apply_updates, leaves, size),
        )
        turns = 4 if name.startswith("MultiSteps") else 1  # the mean of a whole round
        ratio = interleaved(*(repeated(r, turns) for r in runners), 12 if quick else 20)
        yield Row(name, f"step, {leaves} x {size}", ratio)
        del runners
        updating = (_Updating(ours(), leaves, size), _Updating(peer(), leaves, size))
        ratio = interleaved(*(repeated(r, turns) for r in updating), 12 if quick else 20)
        yield Row(name, f"update, {leaves} x {size}", ratio)
        del updating
        small = _tree(leaves, 10_000)
        scratch, copies = [], []
        for tx in (ours(), peer()):
            compiled = _update(tx).lower(small, tx.init(small), small).compile()
            scratch.append(compiled.memory_analysis().temp_size_in_bytes / (leaves * 40_000))
            copies.append(compiled.as_text().count(" copy("))
        yield Row(name, "scratch, models", None, *scratch)
        yield Row(name, "copies", None, *copies)


def tracing(quick: bool) -> Iterator[Row]:
    """Tracing and lowering a step over many leaves, and the size of the program."""
    leaves = 200 if quick else 1000
    params = _tree(leaves, 4)
    for name in ("adamw", "clip + adamw"):
        made = [(PAIRS[name][0](), gf.apply_updates), (PAIRS[name][1](), optax.apply_updates)]
        states = [tx.init(params) for tx, _ in made]

        def trace(which: int, made: Any = made, states: Any = states) -> Any:
            jax.clear_caches()
            return jax.jit(_step(*made[which])).trace(params, states[which], params)

        ratio = interleaved(lambda t=trace: t(0) and None, lambda t=trace: t(1) and None, 5)
        yield Row(name, f"trace, {leaves} leaves", ratio)
        lower: list[list[float]] = [[], []]
        for _ in range(5):
            for which in (0, 1):
                traced = trace(which)
                start = time.perf_counter()
                traced.lower()
                lower[which].append(time.perf_counter() - start)
        pairs = sorted(b / a for a, b in zip(*lower, strict=True))
        middle = [sorted(times)[2] for times in lower]
        yield Row(
            name, f"lower, {leaves} leaves", Ratio(middle[1] / middle[0], pairs[1], pairs[3], middle[0])
        )
        counts = [equations(trace(which).jaxpr.jaxpr) for which in (0, 1)]
        yield Row(name, f"equations, {leaves} leaves", None, *counts)


def eager(quick: bool) -> Iterator[Row]:
    """What a notebook pays that never says jit."""
    params = _tree(10, 100)
    made = (gf.adam(1e-3), gf.apply_updates), (optax.adam(1e-3), optax.apply_updates)

    def run(which: int) -> Callable[[], Any]:
        tx, apply = made[which]
        state = tx.init(params)
        return lambda: _step(tx, apply)(params, state, params)[0]

    yield Row("adam", "eager step, 10 leaves", interleaved(run(0), run(1), 20 if quick else 60))
    for leaves in (10, 100):
        tree = _tree(leaves, 100)
        ratio = interleaved(lambda t=tree: gf.tree.norm(t), lambda t=tree: optax.tree.norm(t), 20)
        yield Row("tree.norm", f"eager, {leaves} leaves", ratio)


def importing(quick: bool) -> Iterator[Row]:
    """Seconds of import beyond `import jax, jax.numpy`, in fresh processes."""
    script = "import jax, jax.numpy, time; a = time.perf_counter(); import {}; print(time.perf_counter() - a)"
    times: dict[str, list[float]] = {"gradflow": [], "optax": []}
    for _ in range(5 if quick else 11):
        for name, seconds in times.items():
            command = [sys.executable, "-c", script.format(name)]
            seconds.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    middle = {name: sorted(seconds)[len(seconds) // 2] * 1e3 for name, seconds in times.items()}
    yield Row("import", "ms beyond jax", None, middle["gradflow"], middle["optax"])


ROWS = {"steps": steps, "tracing": tracing, "eager": eager, "import": importing}

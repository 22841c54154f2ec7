"""Optimizer states in fewer bits: their bytes, the cost of a step, and what training loses.

python -m benchmarks.precision                    steps with 6 M parameters, and training on digits and text
python -m benchmarks.precision --steps 1e8,1e9    steps alone, as on an accelerator
python -m benchmarks.precision --narrow           training with bfloat16 and float16 parameters alone
python -m benchmarks.precision --memory           bytes of state for a model of 7 billion parameters
python -m benchmarks.precision --bars             figures that are to hold, each beside its bar; 2 minutes
python -m benchmarks.precision --bars --quick     those that need no training; a minute
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradflow as gf
from benchmarks import aot
from benchmarks.exact import nbytes, scratch
from gradflow import lab
from gradflow._tables import aligned
from gradflow.wrappers._coded_state import fields_of

TURNS, REPEAT = 5, 5


def _has_mean(tx: gf.GradientTransformation) -> bool:
    return any(field.role == "mean" for field in fields_of(tx).values())


def forms(tx: gf.GradientTransformation, min_size: int) -> dict[str, gf.GradientTransformation]:
    """The transformation, and the same with its state in fewer bits."""
    return {
        "float32": tx,
        "8 bits": gf.quantize_state(tx, min_size=min_size),
        "4-bit mean": gf.quantize_state(tx, 4, min_size=min_size),
        "bfloat16 mean": gf.cast_state(tx, {"mean": "bfloat16"}) if _has_mean(tx) else tx,
    }


OPTIMIZERS = {
    "`adamw`": gf.adamw(1e-3),
    "`lion`": gf.lion(1e-4),
    "`adafactor`": gf.adafactor(1e-3),
    "`muon`": gf.muon(0.02),
}


def language_model(layers: int) -> Any:
    """The shapes of a language model; with 32 layers it has 6.74 billion parameters."""
    d, hidden, words = 4096, 11008, 32000
    matrices = {"query": (d, d), "key": (d, d), "value": (d, d), "out": (d, d),
                "gate": (d, hidden), "up": (d, hidden), "down": (hidden, d)}  # fmt: skip
    layer = {**matrices, "norm": (d,), "norm_after": (d,)}
    shapes = {"embed": (words, d), "layers": [layer] * layers, "norm": (d,), "head": (d, words)}
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes, is_leaf=is_shape)


def memory() -> list[list[str]]:
    """One row per optimizer: bytes of state per parameter and GB in all, for a model of 32 layers.

    `summary` reads one layer and two; each further one adds the same.
    """
    rows = []
    for name, tx in OPTIMIZERS.items():
        row = [name]
        for coded in forms(tx, 4096).values():
            one, two = (gf.summary(coded, language_model(layers)) for layers in (1, 2))
            size = one.state_bytes + 31 * (two.state_bytes - one.state_bytes)
            count = one.parameters + 31 * (two.parameters - one.parameters)
            row.append(f"{size / count:.2f} ({size / 1e9:.2g} GB)")
        rows.append(row)
    return rows


def steps(parameters: int, side: int) -> list[list[str]]:
    """One row per form: state bytes per parameter, scratch in models, and the step against float32's."""
    leaves = max(1, round(parameters / side**2))
    zeros = {f"layer{i}": jnp.zeros((side, side)) for i in range(leaves)}
    grads = {f"layer{i}": jnp.full((side, side), 1e-3 * (i + 1)) for i in range(leaves)}
    model = nbytes(zeros)
    compiled: dict[str, Any] = {}
    times: dict[str, list[float]] = {}
    made = forms(gf.adamw(1e-3), 4096)
    # A CPU's time for the process varies less than a clock's where other programs run.
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    for name, tx in made.items():

        def step(params: Any, state: Any, grads: Any, tx: Any = tx) -> Any:
            grads = jax.tree.map(lambda g: g * params["layer0"][0, 0], grads)  # made here, as in training
            updates, state = tx.update(grads, state, params)
            return gf.apply_updates(params, updates), state

        state = jax.eval_shape(tx.init, zeros)
        compiled[name] = jax.jit(step, donate_argnums=(0, 1)).lower(zeros, state, grads).compile()
        times[name] = []
    for _ in range(TURNS):
        for name, tx in made.items():
            params, state = jax.tree.map(jnp.copy, zeros), jax.jit(tx.init)(zeros)
            params, state = compiled[name](params, state, grads)
            jax.block_until_ready(params)
            begin = clock()
            for _ in range(REPEAT):
                params, state = compiled[name](params, state, grads)
            jax.block_until_ready(params)
            times[name].append(clock() - begin)
            del params, state
    plain = np.asarray(times["float32"])
    rows = []
    for name, tx in made.items():
        size = nbytes(jax.eval_shape(tx.init, zeros)) / (model / 4)
        ratio = np.median(np.asarray(times[name]) / plain)
        held = (scratch(compiled[name]) or 0) / model
        rows.append([f"{model / 4e6:.0f} M", name, f"{size:.3f}", f"{held:.3f}", f"{ratio:.2f}"])
    return rows


def training(
    task_name: str,
    tx: gf.GradientTransformation,
    count: int,
    seeds: Sequence[int],
    only: Sequence[str] | None = None,
) -> list[list[str]]:
    """One row per form: the mean loss of the last fifth of the steps, against float32's, over the seeds."""
    task = lab.task(task_name)
    train = jax.tree.map(jnp.asarray, task.train)
    size = jax.tree.leaves(train)[0].shape[0]
    rows: list[list[str]] = []
    plain: Any = None
    for name, form in forms(tx, 256).items():
        if only is not None and name not in ("float32", *only):
            continue
        run = _curve(task, form, train, size, count)
        losses = np.asarray([_last(run(jax.random.key(seed))) for seed in seeds])
        plain = losses if plain is None else plain
        ratios = losses / plain
        rows.append(
            [
                task_name,
                tx.expression.name,
                name,
                f"{ratios.mean():.4f}",
                f"{ratios.min():.4f} - {ratios.max():.4f}",
            ]
        )
    return rows


def narrow_parameters(rate: float, count: int, seeds: Sequence[int]) -> list[list[str]]:
    """One row per form of bfloat16 and float16 parameters: the loss of text against float32's.

    The last column is the farthest that the means of a hundred steps are from float32's, in per cent.
    Where the loss is multiplied by 2^-16, gradients in float16 are zero without a loss scale. They are also
    near Adam's eps, so float32 has a row of its own there, against which the next ones are.
    """
    tx = gf.adamw(rate)
    half, small = jnp.bfloat16, 2.0**-16
    forms: dict[str, tuple[Any, Any, float]] = {
        "float32": (tx, jnp.float32, 1.0),
        "bfloat16": (tx, half, 1.0),
    }
    for form in ("master", "split", "kahan", "stochastic"):
        forms[f"bfloat16, {form}"] = (gf.master_params(tx, form), half, 1.0)
    forms["float32, loss * 2^-16"] = (tx, jnp.float32, small)
    forms["float16, loss * 2^-16"] = (tx, jnp.float16, small)
    scaled = gf.with_loss_scale(gf.master_params(tx), initial=2.0**28)
    forms["float16, loss * 2^-16, scaled, master"] = (scaled, jnp.float16, small)
    rows: list[list[str]] = []
    plain: Any = None
    for name, (form_tx, dtype, factor) in forms.items():
        task = _narrow(lab.task("text"), dtype, factor)
        train = jax.tree.map(jnp.asarray, task.train)
        size = jax.tree.leaves(train)[0].shape[0]
        run = _curve(task, form_tx, train, size, count)
        curves = np.asarray([run(jax.random.key(seed)) for seed in seeds], np.float64) / factor
        plain = curves if name.startswith("float32") else plain
        losses, ratio = _last(curves), _last(curves) / _last(plain)
        away = 100 * np.max(np.abs(_smoothed(curves) / _smoothed(plain) - 1))
        rows.append([f"{rate:g}", name, f"{losses.mean():.4f}", f"{ratio.mean():.5f}", f"{away:.3f}"])
    return rows


def _last(curves: Any) -> Any:
    """The mean of the last fifth of the steps, which are the last axis."""
    return np.mean(np.asarray(curves)[..., -(curves.shape[-1] // 5) :], -1, dtype=np.float64)


def _smoothed(curves: np.ndarray, width: int = 100) -> np.ndarray:
    """Means of so many steps, one after another."""
    sums = np.cumsum(curves, -1)
    return np.concatenate([sums[..., width - 1 : width], sums[..., width:] - sums[..., :-width]], -1) / width


def _narrow(task: Any, dtype: Any, factor: float) -> Any:
    """The task with parameters and arithmetic in a dtype, and its loss times a factor in float32."""

    def narrow(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def loss(params: Any, batch: Any) -> jax.Array:
        return task.loss_fn(params, narrow(batch)).astype(jnp.float32) * np.float32(factor)

    return dataclasses.replace(task, init=lambda key: narrow(task.init(key)), loss_fn=loss)


def _curve(task: Any, tx: Any, train: Any, size: int, count: int) -> Callable[[jax.Array], jax.Array]:
    """The loss of each step, as a function of a key."""
    step = gf.make_step(task.loss_fn, tx)

    def run(key: jax.Array) -> jax.Array:
        first, rest = jax.random.split(key)
        params = task.init(first)

        def body(carry: Any, key: jax.Array) -> Any:
            places = jax.random.randint(key, (task.batch_size,), 0, size)
            params, state, result = step(*carry, jax.tree.map(lambda x: x[places], train))
            return (params, state), result.value

        keys = jax.random.split(rest, count)
        losses: jax.Array = jax.lax.scan(body, (params, tx.init(params)), keys)[1]
        return losses

    return jax.jit(run)


class Bar(NamedTuple):
    """A figure and its bounds: no lower one where `least` is None; only reported where `most` is None."""

    what: str
    figure: float
    least: float | None
    most: float | None

    def line(self) -> str:
        """One line of the table."""
        if self.most is None:
            return f"{self.what:<58} {self.figure:>9.4f}  reported"
        said = f"<= {self.most:g}" if not self.least else f"{self.least:g} to {self.most:g}"
        held = (self.least or -np.inf) <= self.figure <= self.most
        return f"{self.what:<58} {self.figure:>9.4f}  {said:<15} {'holds' if held else 'MISSED'}"


def print_bars(*, quick: bool) -> None:
    """Prints each figure as soon as it is measured."""
    for bar in itertools.chain(cost_bars(), () if quick else training_bars()):
        print(bar.line(), flush=True)
    print(aot.missing("v5e") or "python -m benchmarks.aot --platform v5e --only states    for a TPU")


def cost_bars() -> Iterator[Bar]:
    """Bytes, a step on this machine, and init."""
    table = {row[1]: row for row in steps(6 * 1024**2, 1024)}
    row = table["8 bits"]
    yield Bar("8-bit AdamW, bytes of state per parameter", float(row[2]), None, 2.04)
    # One tree of updates and two of its six leaves.
    yield Bar("scratch of a step with 6 x 1024^2, models", float(row[3]), None, 1 + 2 / 6)
    yield Bar("its process time / float32's", float(row[4]), None, 3.0)
    tx, like = gf.quantize_state(gf.adamw(1e-3)), {"w": jnp.zeros((1024, 1024))}
    begin = time.perf_counter()
    jax.block_until_ready(jax.jit(tx.init)(like))
    yield Bar("init under jit with 1024^2, compiled and run, seconds", time.perf_counter() - begin, None, 1.0)


def training_bars() -> Iterator[Bar]:
    """Losses against those of float32 states and parameters, from both sides."""
    for task, tx, count, within, narrow in (
        ("digits", gf.adamw(1e-3), 500, 0.01, None),
        ("text", gf.adamw(1e-3), 1000, 0.005, 0.01),
        ("text", gf.lion(1e-4), 1000, 0.005, None),
        ("text", gf.muon(0.02), 1000, 0.005, None),
    ):
        only = ("8 bits",) if task == "digits" else ("8 bits", "4-bit mean")
        for row in training(task, tx, count, (0, 1, 2), only):
            bound = {"8 bits": within, "4-bit mean": narrow}.get(row[2])
            least, most = (None, None) if bound is None else (1 - bound, 1 + bound)
            if row[2] != "float32":
                yield Bar(f"{task}, {row[1]}, {row[2]}: loss / float32's", float(row[3]), least, most)
    for rate in (1e-3, 2e-4):
        for _, name, _, ratio, away in narrow_parameters(rate, 1000, (0,)):
            if name == "bfloat16":
                what = f"text, adamw({rate:g}), plain {name}: loss / float32's"
                yield Bar(what, float(ratio), 1.05, np.inf)
            elif name.startswith("bfloat16"):
                yield Bar(f"text, adamw({rate:g}), {name}: curve, % away", float(away), None, 0.5)
            elif name.startswith("float16"):
                least, most = (0.999, 1.001) if "scaled" in name else (1.1, np.inf)
                yield Bar(f"text, adamw({rate:g}), {name}", float(ratio), least, most)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--steps", metavar="N,...", help="numbers of parameters; without training")
    parser.add_argument("--memory", action="store_true", help="bytes of state alone")
    parser.add_argument("--narrow", action="store_true", help="narrow parameters alone")
    parser.add_argument("--bars", action="store_true", help="figures beside their bars")
    parser.add_argument("--quick", action="store_true", help="with --bars: without training")
    given = parser.parse_args(arguments)
    counts = [float(text) for text in given.steps.split(",")] if given.steps else [6 * 1024**2]
    if given.memory:
        print("\n".join(f"| {' | '.join(row)} |" for row in memory()))
        return
    if given.bars:
        print_bars(quick=given.quick)
        return
    if given.narrow:
        print("\n".join(_narrow_table()))
        return
    print(jax.devices()[0].device_kind)
    rows = [row for count in counts for row in steps(int(count), 4096 if count > 3e8 else 1024)]
    heads = ["parameters", "adamw's state", "bytes per parameter", "scratch (models)", "step / float32"]
    print("\n".join(aligned([heads, *rows], (1,), rule=True)))
    if given.steps:
        return
    rows = training("digits", gf.adamw(1e-3), 500, (0, 1, 2))
    rows += training("text", gf.adamw(1e-3), 1000, (0, 1, 2))
    rows += training("text", gf.lion(1e-4), 1000, (0, 1, 2))
    rows += training("text", gf.muon(0.02), 1000, (0, 1, 2))
    heads = ["task", "optimizer", "state", "loss / float32's", "over seeds"]
    print("\n" + "\n".join(aligned([heads, *rows], (0, 1, 2), rule=True)))
    print("\n" + "\n".join(_narrow_table()))


def _narrow_table() -> list[str]:
    rows = [row for rate in (1e-3, 2e-4) for row in narrow_parameters(rate, 1000, (0, 1, 2))]
    heads = ["adamw on text", "parameters", "loss", "/ float32's", "curve, % away"]
    return aligned([heads, *rows], (0, 1), rule=True)


if __name__ == "__main__":
    main()

"""Measures torch.optim on the CPU: one step on the same leaves with as many threads."""

import importlib.util
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

import gradflow as gf
from benchmarks.limit import limits
from benchmarks.measure import against_limits, repeated
from benchmarks.programs import Program, arrays, shapes, stepping
from benchmarks.rows import Row, Skipped
from benchmarks.steps import BUDGET

# gradflow's optimizer, torch's name, and torch's arguments.
PAIRS: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "adamw": (lambda: gf.adamw(1e-3), "AdamW", {"weight_decay": 1e-4}),
    "sgd momentum": (lambda: gf.sgd(0.1, momentum=0.9), "SGD", {"momentum": 0.9}),
    "adagrad": (lambda: gf.adagrad(0.1), "Adagrad", {}),
    "rmsprop": (lambda: gf.rmsprop(1e-3), "RMSprop", {}),
    "nadam": (lambda: gf.nadam(1e-3), "NAdam", {}),
    "radam": (lambda: gf.radam(1e-3), "RAdam", {}),
    "adamax": (lambda: gf.adamax(1e-3), "Adamax", {}),
    "adadelta": (lambda: gf.adadelta(1.0), "Adadelta", {}),
}


def _stepping(torch: Any, name: str, how: str, like: Any, **given: Any) -> Callable[[], Any]:
    """A step of torch's optimizer on leaves like those; `how` is loop, foreach or fused."""
    leaves = []
    for shape in (leaf.shape for leaf in jax.tree.leaves(like)):
        leaf = torch.full(shape, 0.5, requires_grad=True)
        leaf.grad = torch.linspace(-0.5, 0.5, int(np.prod(shape))).reshape(shape)
        leaves.append(leaf)
    modes = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    return getattr(torch.optim, name)(leaves, lr=1e-3, **modes[how], **given).step


def _modes(torch: Any, name: str) -> list[str]:
    takes = inspect.signature(getattr(torch.optim, name)).parameters
    return [how for how in ("foreach", "fused") if how in takes]


def _mlp() -> Any:
    """The parameters of a network for the digits: three layers."""
    sizes = ((64, 256), (256,), (256, 256), (256,), (256, 10), (10,))
    return {f"leaf{i}": jax.ShapeDtypeStruct(shape, np.float32) for i, shape in enumerate(sizes)}


def pytorch(quick: bool, every: bool) -> Iterator[Row | Skipped]:
    """Measures torch's loops and fused kernels against gradflow's compiled step, and eager steps if small."""
    if importlib.util.find_spec("torch") is None:
        yield Skipped("torch.optim", "no torch: pip install 'gradflow-jax[bench-torch]'")
        return
    import torch

    torch.set_num_threads(os.cpu_count() or 1)  # as many as XLA takes
    leaves, size, runs = (16, 250_000, 10) if quick else (64, 1_000_000, 6)
    like = shapes(leaves, size)
    for name, (ours, theirs, given) in PAIRS.items():
        program = Program(ours(), gf.apply_updates, like).start()
        modes = _modes(torch, theirs)
        peers = [_stepping(torch, theirs, how, like, **given) for how in modes]
        ratios, found = against_limits(program, peers, limits(program.moved), runs, BUDGET)
        for how, ratio in zip(modes, ratios, strict=True):
            yield Row(name, f"step, {leaves} x {size:,}", ratio, against=f"torch {how}", limits=found or None)
        program.stop()
        del peers
    tx, network = gf.adam(1e-3), _mlp()
    params = arrays(network)
    step, state = stepping(tx, gf.apply_updates, {}), tx.init(params)
    modes = ["loop", *_modes(torch, "Adam")]
    peers = [repeated(_stepping(torch, "Adam", how, network), 20) for how in modes]
    runs_of_ours = {
        "jitted step, 3 layers": repeated(Program(tx, gf.apply_updates, network).start(), 20),
        "eager step, 3 layers": repeated(lambda: step(params, state, params)[0], 20),
    }
    for figure, run in runs_of_ours.items():
        ratios, _ = against_limits(run, peers, [], 15)
        for how, ratio in zip(modes, ratios, strict=True):
            ratio = ratio._replace(seconds=ratio.seconds / 20)
            yield Row("adam", figure, ratio, against=f"torch {how}")

"""Measures value and gradient on a batch, compiled, of every loss in both libraries."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradflow as gf
from benchmarks.exact import equations, nbytes, program_figures, scratch
from benchmarks.measure import ratio_of, repeated, turns
from benchmarks.rows import Row, Skipped


def cases(batch: int, classes: int) -> dict[str, tuple[Any, ...]]:
    """The arguments of each loss; its gradient is with respect to the first."""
    rng = np.random.default_rng(0)
    x, y, z = (rng.normal(size=(batch, classes)).astype(np.float32) for _ in range(3))
    log_p, log_q = (a - np.log(np.exp(a).sum(-1, keepdims=True)) for a in (x, y))
    q, bits, labels = np.exp(log_q), (y > 0).astype(np.float32), rng.integers(0, classes, batch)
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    some = min(batch, 512)
    time, length = 4 * 20, 20
    spoken = rng.normal(size=(max(1, batch // 256), time, classes)).astype(np.float32)
    words = rng.integers(1, classes, (len(spoken), length))
    ctc = (spoken, np.zeros(spoken.shape[:2], np.float32), words, np.zeros(words.shape, np.float32))
    return {
        **dict.fromkeys(("squared_error", "l2_loss", "huber_loss", "log_cosh"), (x, y)),
        **dict.fromkeys(("cosine_similarity", "cosine_distance"), (x, y)),
        **dict.fromkeys(("softmax_cross_entropy", "safe_softmax_cross_entropy"), (x, q)),
        "poly_loss_cross_entropy": (x, q),
        "softmax_cross_entropy_with_integer_labels": (x, labels),
        **dict.fromkeys(("sigmoid_binary_cross_entropy", "sigmoid_focal_loss"), (x, bits)),
        "sparsemax_loss": (x, bits.astype(np.int32)),
        **dict.fromkeys(("hinge_loss", "perceptron_loss"), (x, 2 * bits - 1)),
        **dict.fromkeys(("multiclass_hinge_loss", "multiclass_perceptron_loss"), (x, labels)),
        "multiclass_sparsemax_loss": (x, labels),
        **dict.fromkeys(("kl_divergence", "generalized_kl_divergence"), (log_p, q)),
        "kl_divergence_with_log_targets": (log_p, log_q),
        **dict.fromkeys(("dice_loss", "multiclass_generalized_dice_loss"), (x, one_hot)),
        "binary_dice_loss": (x, bits),
        "ranking_softmax_loss": (x, y),
        "triplet_margin_loss": (x, y, z),
        "ntxent": (x[:some], labels[:some] % 16),
        "ctc_loss": ctc,
        "smooth_labels": (q, 0.1),
    }


def _mean(loss: Callable[..., Any], others: Sequence[Any], x: Any) -> Any:
    return jnp.mean(loss(x, *others))


def loss_row(
    name: str,
    arguments: Sequence[Any],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
    calls: int = 1,
) -> Row:
    """Measures the mean loss and its gradient with respect to the first argument; a run has several calls."""
    x, *others = map(jnp.asarray, arguments)
    ready, figures = [], []
    for room in (gf.losses, optax.losses):
        mean = functools.partial(_mean, getattr(room, name), others)
        function = jax.jit(jax.value_and_grad(mean))
        traced = function.trace(x)
        compiled = traced.lower().compile()
        ready.append(repeated(functools.partial(compiled, x), calls))
        program = program_figures(compiled.as_text())
        temporary = scratch(compiled)
        figures.append({
            "scratch": None if temporary is None else temporary / nbytes(x),
            "equations": equations(traced.jaxpr.jaxpr),
            **{k: program[k] for k in ("copies", "fusions", "instructions")},
        })  # fmt: skip
    exact = {k: (figures[0][k], figures[1][k]) for k in figures[0]}
    ratio = ratio_of(*turns(ready, runs, clock=clock))
    return Row(name, "value and gradient", ratio._replace(seconds=ratio.seconds / calls), exact=exact)


def losses(quick: bool, every: bool) -> Iterator[Row | Skipped]:
    """Measures the mean loss and its gradient with respect to the predictions."""
    batch, classes, runs = (1024, 50, 10) if quick else (4096, 100, 12)
    for name, arguments in list(cases(batch, classes).items())[:: 2 if quick else 1]:
        if not hasattr(optax.losses, name):
            yield Skipped(name, "Optax has no loss of this name")
        else:
            yield loss_row(name, arguments, runs)

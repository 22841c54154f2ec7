"""What a training problem is, and the small networks that the built-in ones train."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

Params = Any
Batch = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A training problem.

    - `init(key) -> params`: one start for each seed.
    - `loss_fn(params, batch) -> scalar`: the mean over a batch.
    - `train`, `test`: trees of arrays whose leading axis counts the examples. `test` may be None.
    - `batch_size`: examples in a step; None when `train`'s leading axis counts whole batches already.
    - `target`: the training loss whose first reaching is timed, one for all; None for no target. The
      built-in ones were set by trial runs, low enough that most optimizers get there at different steps; of
      `ode` only those that keep curvature do.
    - `score_fn(params, test) -> scalar`: what `score_name` says, higher is better. May be None.
    - `steps`: how many are taken by default.
    """

    name: str
    init: Callable[[jax.Array], Params]
    loss_fn: Callable[[Params, Batch], jax.Array]
    train: Batch
    batch_size: int | None = 64
    target: float | None = None
    test: Batch = None
    score_fn: Callable[[Params, Batch], jax.Array] | None = None
    score_name: str = "score"
    steps: int = 500

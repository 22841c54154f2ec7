"""The definition of a training problem."""

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
    - `batch_size`: examples per step; None if `train`'s leading axis counts whole batches.
    - `target`: the training loss to reach, the same for all optimizers; None for no target. The built-in ones
      were chosen by trial runs, so that most optimizers reach them at different steps. That of `ode` is
      reached only by optimizers that use curvature.
    - `score_fn(params, test) -> scalar`: the value that `score_name` names; higher is better. May be None.
    - `steps`: the default number of steps.
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

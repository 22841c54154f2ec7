"""Compiles one program for many runs, over values of hyper-parameters and over seeds."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._training._step import make_step
from gradflow._types import OptState
from gradflow.lab._tasks._task import Batch, Params, Task
from gradflow.wrappers import eval_params

Build = Callable[[Any], GradientTransformation]  # from a tree of numbers, which may be traced
Carry = tuple[Params, OptState]

_PROBE = 2048  # training examples on which the loss is evaluated, at most
_PROBE_BATCHES = 64  # batches on which it is evaluated, at most


class CannotRunError(ValueError):
    """Raised for an optimizer that cannot be built from traced numbers, or needs more than a plain step."""


class Setting(NamedTuple):
    """The data that all runs on a task share. `starts`, `order` and `first` have an axis of seeds."""

    task: Task
    starts: Params
    order: jax.Array
    train: Batch
    probe: Batch
    first: jax.Array


def set_up(task: Task, seeds: Sequence[int], steps: int, caller: str) -> Setting:
    """Returns the setting of runs from some seeds; raises TypeError for a loss that is not one number."""
    train, probe = jax.tree.map(jnp.asarray, (task.train, probe_of(task)))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    starts = jax.vmap(lambda key: jax.tree.map(strong, task.init(key)))(keys)
    _check_loss(task, starts, train, caller)
    order = jnp.asarray(np.stack([batch_order(task, seed, steps) for seed in seeds]))
    first = jax.vmap(lambda params: probe_loss(task, params, probe))(starts)
    return Setting(task, starts, order, train, probe, first)


def batch_order(task: Task, seed: int, steps: int) -> np.ndarray:
    """The indices into the training data for each step; every epoch is shuffled again."""
    length = len(jax.tree.leaves(task.train)[0])
    size = 1 if task.batch_size is None else min(task.batch_size, length)
    rng = np.random.default_rng(seed)
    epochs = [rng.permutation(length) for _ in range(-(-steps * size // length))]
    order = np.concatenate(epochs)[: steps * size].astype(np.int32).reshape(steps, size)
    return order[:, 0] if task.batch_size is None else order


def strong(leaf: Any) -> jax.Array:
    """Converts a leaf to a strongly typed array, so that a loop can carry it."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


def probe_loss(task: Task, params: Params, probe: Batch) -> jax.Array:
    """The training loss on the probe: of all examples at once, or the mean over batches."""
    if task.batch_size is not None:
        return task.loss_fn(params, probe)
    return jnp.mean(jax.lax.map(lambda batch: task.loss_fn(params, batch), probe))


def probe_of(task: Task) -> Batch:
    """The training examples on which the loss is evaluated: the first of the shuffled data."""
    limit = _PROBE if task.batch_size is not None else _PROBE_BATCHES
    return jax.tree.map(lambda leaf: leaf[:limit], task.train)


def start(build: Build, values: Any, runs: int, starts: Params) -> Carry:
    """The initial parameters and states of runs, with an axis of values, then one of seeds."""
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], runs, axis=0), starts)

    def init(values: Any, params: Params) -> OptState:
        return build(values).init(params)

    return repeated, jax.vmap(jax.vmap(init, (None, 0)))(values, repeated)


def training(task: Task, build: Build) -> Callable[..., tuple[Carry, jax.Array]]:
    """Returns `program(values, carry, order, first, last, train, probe)`, which trains all runs.

    It takes the steps `first` to `last` - 1 and returns the new carry and the training losses, which are
    evaluated at the averages for optimizers that average the parameters. Every leaf of `values` and `carry`
    has a leading axis of values.
    """

    def one(
        values: Any, carry: Carry, order: jax.Array, first: Any, last: Any, train: Batch, probe: Batch
    ) -> tuple[Carry, jax.Array]:
        update = make_step(task.loss_fn, build(values))

        def step(i: jax.Array, carry: Carry) -> Carry:
            params, state, _ = update(*carry, jax.tree.map(lambda leaf: leaf[order[i]], train))
            return params, state

        params, state = jax.lax.fori_loop(first, last, step, carry)
        return (params, state), probe_loss(task, eval_params(state, params), probe)

    over_seeds = jax.vmap(one, (None, 0, 0, None, None, None, None))
    return jax.vmap(over_seeds, (0, 0, None, None, None, None, None))


def scores(task: Task, carry: Carry) -> np.ndarray | None:
    """The task's `score_fn` for all runs; None without one."""
    if task.score_fn is None or task.test is None:
        return None
    score_fn = task.score_fn

    def one(carry: Carry, test: Batch) -> jax.Array:
        params, state = carry
        return score_fn(eval_params(state, params), test)

    return np.asarray(jax.jit(jax.vmap(jax.vmap(one, (0, None)), (0, None)))(carry, task.test))


def _check_loss(task: Task, starts: Params, train: Batch, caller: str) -> None:
    def first(starts: Params, train: Batch) -> Any:
        size: Any = slice(0, 1) if task.batch_size is not None else 0
        params = jax.tree.map(lambda leaf: leaf[0], starts)
        return task.loss_fn(params, jax.tree.map(lambda leaf: leaf[size], train))

    loss = jax.eval_shape(first, starts, train)
    if not isinstance(loss, jax.ShapeDtypeStruct) or loss.shape != ():
        raise TypeError(f"{caller}: argument 'loss_fn' must return one number; got {describe(loss)}")

"""Trains every optimizer at every rate from every seed, each optimizer as one compiled program."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._apply import apply_updates
from gradflow._errors import describe
from gradflow.lab._contenders import Contender
from gradflow.lab._optional import optional
from gradflow.lab._plan import Plan
from gradflow.lab._result import Entry
from gradflow.lab._tasks import Batch, Params, Task

_PROBE = 2048  # training examples that the loss is looked at on, at most
_PROBE_BATCHES = 64  # the same for batches


def batch_order(task: Task, seed: int, steps: int) -> np.ndarray:
    """The indices into the training data that each step takes: every epoch in an order of its own."""
    length = len(jax.tree.leaves(task.train)[0])
    size = 1 if task.batch_size is None else min(task.batch_size, length)
    rng = np.random.default_rng(seed)
    epochs = [rng.permutation(length) for _ in range(-(-steps * size // length))]
    order = np.concatenate(epochs)[: steps * size].astype(np.int32).reshape(steps, size)
    return order[:, 0] if task.batch_size is None else order


def _strong(leaf: Any) -> jax.Array:
    """A leaf as a jax array with a type of its own, so that it can be carried through a loop."""
    array = jnp.asarray(leaf)
    return jax.lax.convert_element_type(array, array.dtype)


def _program(task: Task, contender: Contender) -> Callable[..., Any]:
    """Steps `start` to `stop` of all runs and the training loss after them; jitted once."""

    def one(
        rate: jax.Array,
        carry: Any,
        order: jax.Array,
        start: jax.Array,
        stop: jax.Array,
        train: Batch,
        probe: Batch,
    ) -> Any:
        tx = contender.build(rate)

        def step(i: jax.Array, carry: Any) -> Any:
            params, state = carry
            batch = jax.tree.map(lambda leaf: leaf[order[i]], train)

            def value_fn(params: Params) -> jax.Array:
                return task.loss_fn(params, batch)

            value, grads = jax.value_and_grad(value_fn)(params)
            updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=value_fn)
            return apply_updates(params, updates), state

        carry = jax.lax.fori_loop(start, stop, step, carry)
        return carry, probe_loss(task, carry[0], probe)

    over_seeds = jax.vmap(one, (None, 0, 0, None, None, None, None))
    return jax.vmap(over_seeds, (0, 0, None, None, None, None, None))


def probe_loss(task: Task, params: Params, probe: Batch) -> jax.Array:
    """The training loss: of examples together, or the mean over batches."""
    if task.batch_size is not None:
        return task.loss_fn(params, probe)
    return jnp.mean(jax.lax.map(lambda batch: task.loss_fn(params, batch), probe))


def probe_of(task: Task) -> Batch:
    """The training examples that the loss is looked at on: the first few thousand, of shuffled ones."""
    limit = _PROBE if task.batch_size is not None else _PROBE_BATCHES
    return jax.tree.map(lambda leaf: leaf[:limit], task.train)


class CannotRunError(ValueError):
    """An optimizer that cannot be built from a learning rate alone, or cannot take a plain step."""


class _Ready(NamedTuple):
    contender: Contender
    rates: jax.Array
    start: Callable[[], Any]
    lowered: Any
    bytes_per_parameter: float


class _Bar:
    """A progress bar over all steps of all optimizers; silent without one."""

    def __init__(self, shown: bool, total: int) -> None:
        self.bar = optional("tqdm", "the progress bar").tqdm(total=total, unit="step") if shown else None

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.set_description(text)

    def advance(self, steps: int) -> None:
        if self.bar is not None:
            self.bar.update(steps)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def run(plan: Plan, progress: bool = True) -> Iterator[Entry]:
    """Yields the contenders' entries, one by one as they are finished.

    All programs are traced before the first one runs, so a fault in any of them is known at once.
    """
    task = plan.task
    with contextlib.closing(_Bar(progress, plan.steps * len(plan.contenders))) as bar:
        train, probe = jax.tree.map(jnp.asarray, (task.train, probe_of(task)))
        keys = jnp.stack([jax.random.key(seed) for seed in plan.seeds])
        starts = jax.vmap(lambda key: jax.tree.map(_strong, task.init(key)))(keys)
        _check_loss(task, starts, train)
        order = jnp.asarray(np.stack([batch_order(task, seed, plan.steps) for seed in plan.seeds]))
        first = jax.vmap(lambda params: probe_loss(task, params, probe))(starts)
        shared = (order, train, probe)
        ready = []
        for contender in plan.contenders:
            bar.say(f"tracing {contender.name}")
            ready.append(_lower(plan, contender, starts, shared))
        for one in ready:
            yield _train(plan, one, first, shared, bar)


def _check_loss(task: Task, starts: Params, train: Batch) -> None:
    """Raises TypeError for a loss that is not one number."""

    def first(starts: Params, train: Batch) -> Any:
        size: Any = slice(0, 1) if task.batch_size is not None else 0
        params = jax.tree.map(lambda leaf: leaf[0], starts)
        return task.loss_fn(params, jax.tree.map(lambda leaf: leaf[size], train))

    loss = jax.eval_shape(first, starts, train)
    if not isinstance(loss, jax.ShapeDtypeStruct) or loss.shape != ():
        raise TypeError(f"compare: the loss must be one number; loss_fn returned {describe(loss)}")


def _start(contender: Contender, rates: jax.Array, starts: Params) -> Any:
    """The parameters and states that all runs of a contender begin with."""
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(rates), axis=0), starts)

    def init(rate: jax.Array, params: Params) -> Any:
        return contender.build(rate).init(params)

    return repeated, jax.vmap(jax.vmap(init, (None, 0)))(rates, repeated)


def _lower(plan: Plan, contender: Contender, starts: Params, shared: Any) -> _Ready:
    order, train, probe = shared
    rates = jnp.asarray([1.0 if rate is None else rate for rate in contender.rates], jnp.float32)
    start: Callable[..., Any] = jax.jit(functools.partial(_start, contender))
    index = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        carry = jax.eval_shape(start, rates, starts)
        lowered = jax.jit(_program(plan.task, contender), donate_argnums=1).lower(
            rates, carry, order, index, index, train, probe
        )
    except (TypeError, ValueError) as error:
        raise CannotRunError(f"the optimizer '{contender.name}' cannot be compared here: {error}") from error
    params, state = carry
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return _Ready(contender, rates, functools.partial(start, rates, starts), lowered, size / count)


def _train(plan: Plan, ready: _Ready, first: jax.Array, shared: Any, bar: _Bar) -> Entry:
    task, (order, train, probe) = plan.task, shared
    bar.say(f"compiling {ready.contender.name}")
    began = time.perf_counter()
    program = ready.lowered.compile()
    compiled = time.perf_counter()
    bar.say(ready.contender.name)
    carry = ready.start()
    losses = [np.tile(np.asarray(first)[None], (len(ready.rates), 1))]
    at = plan.evaluated_at
    for start, stop in itertools.pairwise(at):
        carry, loss = program(ready.rates, carry, order, np.int32(start), np.int32(stop), train, probe)
        losses.append(np.asarray(loss))
        bar.advance(stop - start)
    score = None
    if task.score_fn is not None and task.test is not None:
        one = jax.vmap(jax.vmap(task.score_fn, (0, None)), (0, None))
        score = np.asarray(jax.jit(one)(carry[0], task.test)).tolist()
    finished = time.perf_counter()
    return Entry.of_losses(
        np.stack(losses, axis=-1).astype(float),
        plan.evaluated_at,
        plan.target,
        name=ready.contender.name,
        learning_rates=list(ready.contender.rates),
        score=score,
        state_bytes_per_parameter=ready.bytes_per_parameter,
        seconds=finished - compiled,
        compile_seconds=compiled - began,
        describe=lambda rate: repr(ready.contender.build(rate)),
    )

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

from gradflow.lab._candidates._candidates import Candidate
from gradflow.lab._experiments._plan import Plan
from gradflow.lab._experiments._program import CannotRunError, Setting, scores, set_up, start, training
from gradflow.lab._experiments._progress_bar import ProgressBar
from gradflow.lab._results._comparison import Entry


class _Ready(NamedTuple):
    candidate: Candidate
    rates: jax.Array
    start: Callable[[], Any]
    lowered: Any
    bytes_per_parameter: float


def run(plan: Plan, progress: bool = True) -> Iterator[Entry]:
    """Yields the entry of each candidate when it is finished.

    All programs are traced before the first one runs, so that an error in any of them is raised at once.
    """
    with contextlib.closing(ProgressBar(progress, plan.steps * len(plan.candidates))) as bar:
        setting = set_up(plan.task, plan.seeds, plan.steps, "compare")
        ready = []
        for candidate in plan.candidates:
            bar.describe(f"tracing {candidate.name}")
            ready.append(_lower(candidate, setting))
        for one in ready:
            yield _train(plan, one, setting, bar)


def _lower(candidate: Candidate, setting: Setting) -> _Ready:
    rates = jnp.asarray([1.0 if rate is None else rate for rate in candidate.rates], jnp.float32)
    begin: Callable[..., Any] = jax.jit(functools.partial(start, candidate.build), static_argnums=1)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    try:
        carry = jax.eval_shape(begin, rates, len(rates), setting.starts)
        lowered = jax.jit(training(setting.task, candidate.build), donate_argnums=1).lower(
            rates, carry, setting.order, index, index, setting.train, setting.probe
        )
    except (TypeError, ValueError) as error:
        raise CannotRunError(
            f"compare: argument 'optimizers' must hold optimizers that train on the task; "
            f"got '{candidate.name}', which cannot be compared here: {error}"
        ) from error
    params, state = carry
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return _Ready(candidate, rates, lambda: begin(rates, len(rates), setting.starts), lowered, size / count)


def _train(plan: Plan, ready: _Ready, setting: Setting, bar: ProgressBar) -> Entry:
    bar.describe(f"compiling {ready.candidate.name}")
    began = time.perf_counter()
    program = ready.lowered.compile()
    compiled = time.perf_counter()
    bar.describe(ready.candidate.name)
    carry = ready.start()
    losses = [np.tile(np.asarray(setting.first)[None], (len(ready.rates), 1))]
    at = plan.evaluated_at
    for first, last in itertools.pairwise(at):
        carry, loss = program(
            ready.rates, carry, setting.order, np.int32(first), np.int32(last), setting.train, setting.probe
        )
        losses.append(np.asarray(loss))
        bar.advance(last - first)
    score = scores(plan.task, carry)
    finished = time.perf_counter()
    return Entry.of_losses(
        np.stack(losses, axis=-1).astype(float),
        plan.evaluated_at,
        plan.target,
        name=ready.candidate.name,
        learning_rates=list(ready.candidate.rates),
        score=None if score is None else score.tolist(),
        state_bytes_per_parameter=ready.bytes_per_parameter,
        seconds=finished - compiled,
        compile_seconds=compiled - began,
        describe=lambda rate: repr(ready.candidate.build(rate)),
    )

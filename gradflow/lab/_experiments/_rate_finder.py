"""`rate_finder`: records the loss while the learning rate rises, from too small to too large."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import Number, checked
from gradflow._training._step import make_step
from gradflow.lab._arguments import LOSS, NUMBER, PARAMS, SEEDS
from gradflow.lab._candidates._candidates import rate_builder
from gradflow.lab._experiments._plan import check_seeds, check_whole_number
from gradflow.lab._experiments._program import CannotRunError, set_up
from gradflow.lab._results._rate_curve import RateCurve
from gradflow.lab._results._statistics import quantile
from gradflow.lab._tasks._catalog import choose_task
from gradflow.lab._tasks._task import Task

_FALL = 0.95  # of the first loss; a curve that never falls below it gives no suggestion


@checked(
    loss_fn=LOSS,
    params=PARAMS,
    low=NUMBER,
    high=NUMBER,
    steps=Number(10, whole=True, static=True),
    seeds=SEEDS,
)
def rate_finder(
    optimizer: Any = "adam",
    *,
    task: str | Task | None = None,
    loss_fn: Callable[..., Any] | None = None,
    params: Any = None,
    batches: Any = None,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    seeds: int | Iterable[int] = 3,
) -> RateCurve:
    """Raises the learning rate from `low` to `high` while training, and records the loss.

        rate_finder("adamw", loss_fn=loss_fn, params=params, batches=batches).plot()

    Args:
      optimizer: a name, an expression as text, or a transformation; its one `learning_rate` is replaced.
      task, loss_fn, params, batches: as in `compare`.
      low, high: the first rate and the last, with a constant factor from step to step.
      steps: the number of steps.
      seeds: the number of seeds, or the seeds; one run each.

    The suggestion is where the smoothed loss falls fastest. It is a first guess for a sweep to refine. The
    loss also falls from earlier steps, and a rate that is stable for a few steps may not be for many.
    Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.
    """
    check_whole_number("rate_finder", "steps", steps, 10)
    if not (math.isfinite(high) and 0 < low < high):
        raise ValueError(
            f"rate_finder: argument 'low' must be above 0 and below high; got {low!r} and {high!r}"
        )
    name, build = rate_builder(optimizer, "rate_finder")
    chosen = choose_task(task, loss_fn, params, batches, steps, "rate_finder")
    setting = set_up(chosen, check_seeds("rate_finder", seeds), steps, "rate_finder")
    rates = np.geomspace(low, high, steps)
    try:
        found = jax.jit(functools.partial(_run, build, setting.task))(
            jnp.asarray(rates, jnp.float32), setting.starts, setting.order, setting.train
        )
    except (TypeError, ValueError) as error:
        raise CannotRunError(
            f"rate_finder: argument 'optimizer' must train on the task; "
            f"got '{name}', which cannot run here: {error}"
        ) from error
    losses = np.asarray(found, float)
    middle = quantile(losses, 0.5)
    smoothed = _smooth(middle)
    steepest, lowest = _marks(smoothed, middle)
    rate = [None if i is None else float(rates[i]) for i in (steepest, lowest)]
    return RateCurve(
        task=chosen.name,
        optimizer=name,
        learning_rates=rates.tolist(),
        losses=losses.tolist(),
        smoothed=smoothed.tolist(),
        steepest=rate[0],
        lowest=rate[1],
        suggestion=rate[0],
    )


def _run(
    build: Callable[[Any], Any], task: Task, rates: jax.Array, starts: Any, orders: jax.Array, train: Any
) -> jax.Array:
    """The losses of all seeds before each step."""

    def one(start: Any, order: jax.Array) -> jax.Array:
        def step(carry: Any, at: Any) -> Any:
            rate, indices = at
            batch = jax.tree.map(lambda leaf: leaf[indices], train)
            params, state, result = make_step(task.loss_fn, build(rate))(*carry, batch)
            return (params, state), result.value

        return jax.lax.scan(step, (start, build(rates[0]).init(start)), (rates, order))[1]

    return jax.vmap(one)(starts, orders)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A weighted mean of each value and its neighbors, about a thirtieth of all to either side."""
    reach = max(1, len(values) // 30)
    weights = np.exp(-0.5 * (np.arange(-2 * reach, 2 * reach + 1) / reach) ** 2)
    finite = np.isfinite(values)
    stop = len(values) if finite.all() else int(np.argmin(finite))
    padded = np.pad(values[:stop], 2 * reach, mode="edge") if stop else values[:0]
    smooth = np.full(len(values), np.inf)
    if stop:
        smooth[:stop] = np.convolve(padded, weights / weights.sum(), mode="valid")
    return smooth


def _marks(smoothed: np.ndarray, raw: np.ndarray) -> tuple[int | None, int | None]:
    """Where a smoothed loss falls fastest and where it is least; None where it never falls.

    A fall must exceed a twentieth of the loss, and twice its standard deviation at the low rates.
    """
    lowest = int(np.argmin(smoothed))
    first, early = smoothed[0], raw[: max(3, len(raw) // 4)]
    if not math.isfinite(first) or not np.isfinite(early).all() or lowest < 2:
        return None, None
    fall = max((1 - _FALL) * abs(first), 2 * float(early.std()))
    if not smoothed[lowest] < first - fall:
        return None, None
    slope = np.diff(smoothed[: lowest + 1])
    return int(np.argmin(slope)), lowest

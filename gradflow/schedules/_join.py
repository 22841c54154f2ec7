"""Schedules in sequence: arbitrary ones, or cosine cycles with warm restarts."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._errors import describe
from gradflow._expressions._functions import schedule
from gradflow._types import Schedule
from gradflow.schedules._curves import (
    LAST_COUNT,
    Cycles,
    Edges,
    as_operand,
    read_count,
    read_list,
    standard_count,
    working_float,
)
from gradflow.schedules._warmup import warmup_cosine_decay_schedule


@jax.jit
def elapsed(count: Any, boundaries: Any) -> tuple[jax.Array, ...]:
    """The count since 0 and since every boundary, 0 before it."""
    count = standard_count(count)
    return (count, *(jnp.maximum(count - boundary.astype(count.dtype), 0) for boundary in boundaries))


@jax.jit
def select_piece(count: Any, boundaries: Any, values: tuple[Any, ...]) -> jax.Array:
    """The value of the piece that contains the count."""
    count = standard_count(count)
    first, *others = (value.astype(working_float()) for value in values)
    value = jnp.broadcast_to(first, count.shape)
    for boundary, other in zip(boundaries, others, strict=True):
        value = jnp.where(count < boundary.astype(count.dtype), value, other)
    return value


def join(owner: str, schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """Builds the schedule of `owner` that follows each of `schedules` up to its boundary."""
    near = [boundary for boundary in boundaries if boundary <= LAST_COUNT]

    def value(count: Any) -> jax.Array:
        count = read_count(owner, count)
        if count.dtype == np.int64 or jnp.issubdtype(count.dtype, jnp.floating):
            edges, pieces = np.asarray(boundaries, count.dtype), schedules
        else:  # no such count reaches the other pieces
            edges, pieces = np.asarray(near, np.int32), schedules[: len(near) + 1]
        counts = elapsed(count, edges)
        values = [as_operand(owner, s, since) for s, since in zip(pieces, counts, strict=True)]
        return select_piece(count, edges, tuple(values))

    return value


@schedule
def join_schedules(schedules: Sequence[Schedule], boundaries: Edges) -> Schedule:
    """Runs schedules in sequence, each from its own count 0.

        value = schedules[0](count)                            while count < boundaries[0]
        value = schedules[k](count - boundaries[k - 1])        from boundaries[k - 1] on

    Args:
      schedules: functions from a count to a number, one or more. All are evaluated at every step, the later
        ones at count 0.
      boundaries: first steps of the second and later schedules, >= 0 and ascending. A schedule between two
        equal ones is skipped, and those that no schedule follows are unused.

    Raises TypeError for other types, ValueError for boundaries out of order or too few.

    >>> import gradflow as gf
    >>> rate = gf.join_schedules([gf.linear_schedule(0.0, 1.0, 10), gf.constant_schedule(0.5)], [10])
    >>> [round(float(rate(count)), 3) for count in (0, 5, 10)]
    [0.0, 0.5, 0.5]
    """
    owner = "join_schedules"
    pieces = read_list(owner, "schedules", schedules, "schedules")
    for index, piece in enumerate(pieces):
        if not callable(piece) or isinstance(piece, type) or hasattr(piece, "__gradflow__"):
            hint = ""
            if hasattr(piece, "__gradflow__"):
                hint = f". It is a factory: call it, as in {piece.__name__}(...)"
            elif isinstance(piece, int | float | np.ndarray | np.generic | jax.Array):
                hint = ". For a number write constant_schedule(number)"
            raise TypeError(
                f"{owner}: argument 'schedules[{index}]' must be a schedule; got {describe(piece)}{hint}"
            )
    if not pieces:
        raise ValueError(f"{owner}: argument 'schedules' must have at least one schedule; got none")
    if len(boundaries) < len(pieces) - 1:
        raise ValueError(
            f"{owner}: argument 'boundaries' must have one number fewer than there are schedules, "
            f"{len(pieces) - 1} for {len(pieces)}; got {len(boundaries)}"
        )
    for edge, following in itertools.pairwise(boundaries):
        if following < edge:
            raise ValueError(f"{owner}: argument 'boundaries' must ascend; got {edge}, then {following}")
    return join(owner, pieces, boundaries[: len(pieces) - 1])


@schedule
def sgdr_schedule(cosine_kwargs: Annotated[Sequence[Mapping[str, Any]], Cycles()]) -> Schedule:
    """Runs `warmup_cosine_decay_schedule`s in sequence: cosine cycles with warm restarts.

    Args:
      cosine_kwargs: the arguments of each cycle, as dicts; `decay_steps` is the length of the cycle.

    Errors are those of `warmup_cosine_decay_schedule`, with the index of the cycle.
    Source: Loshchilov & Hutter 2016, arXiv:1608.03983.

    >>> import gradflow as gf
    >>> cycle = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "decay_steps": 60}
    >>> rate = gf.sgdr_schedule([cycle, cycle])
    >>> [round(float(rate(count)), 3) for count in (0, 10, 35, 60, 70)]
    [0.0, 1.0, 0.5, 0.0, 1.0]
    """
    owner = "sgdr_schedule"
    cycles: list[Schedule] = []
    ends = [0]
    for index, kwargs in enumerate(cosine_kwargs):
        try:
            cycles.append(warmup_cosine_decay_schedule(**kwargs))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{owner}: argument 'cosine_kwargs[{index}]': {error}") from None
        ends.append(ends[-1] + int(kwargs["decay_steps"]))
    if not cycles:
        raise ValueError(f"{owner}: argument 'cosine_kwargs' must have at least one cycle; got none")
    return join(owner, cycles, ends[1:-1])

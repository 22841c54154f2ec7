"""Parts of every schedule: shapes between 0 and 1, and the call `count -> value`.

A formula is a pure module-level function `(count, *, lengths and numbers) -> value`. `follow` binds one
to its arguments and compiles it once for all schedules: lengths and numbers are operands, never constants.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import GeneratorType
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._checked import Kind
from gradflow._errors import describe
from gradflow._expressions._arguments import Interval, WholeNumber, only_number
from gradflow._expressions._printing import show
from gradflow._types import Schedule

LAST_COUNT = 2**31 - 1


class Boundaries(WholeNumber):
    """A list of first steps of pieces: whole numbers >= 0, in a list, tuple, range or array."""

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The boundaries as a tuple of Python integers; raises TypeError for other types."""
        steps = read_list(owner, name, value, "whole numbers")
        read = super().read
        return tuple(read(owner, f"{name}[{index}]", step) for index, step in enumerate(steps))


def _is_anything(value: Any) -> bool:
    return True  # `read` decides; a lambda would not pickle


class Cycles(Kind):
    """The arguments of several cycles: mappings in a list, tuple or generator."""

    def __init__(self) -> None:
        super().__init__("a list of dicts", _is_anything)

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The cycles as a tuple of dicts; raises TypeError for other types."""
        cycles = read_list(owner, name, list(value) if isinstance(value, GeneratorType) else value, "dicts")
        for index, cycle in enumerate(cycles):
            if not hasattr(cycle, "keys"):  # a mapping of a configuration library may be no `Mapping`
                raise TypeError(f"{owner}: argument '{name}[{index}]' must be a dict; got {describe(cycle)}")
        return tuple({**cycle} for cycle in cycles)


class Factors(WholeNumber):
    """A dict {boundary: factor}, with boundaries >= 0 and factors that are numbers >= 0."""

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The dict with Python integers as keys; raises TypeError for other types."""
        if type(value) is not dict:
            raise TypeError(
                f"{owner}: argument '{name}' must be a dict {{boundary: factor}} or None; got "
                f"{describe(value)}"
            )
        for boundary, scale in value.items():
            Interval(0.0).check(owner, f"{name}[{boundary}]", scale)
        read = super().read
        return {read(owner, f"{name}, a boundary", boundary): scale for boundary, scale in value.items()}


def read_list(owner: str, name: str, value: Any, of: str) -> list[Any]:
    """The items of a list, tuple, range or concrete array with one axis; raises TypeError for other types."""
    is_array = isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer)
    if not isinstance(value, list | tuple | range) and not (is_array and value.ndim == 1):
        raise TypeError(f"{owner}: argument '{name}' must be a list of {of}; got {describe(value)}")
    return list(np.asarray(value)) if is_array else list(value)


Steps = Annotated[int, WholeNumber(1)]
StepsOrNone = Annotated[int, WholeNumber(0)]
Begin = Annotated[int, WholeNumber(None)]
Edges = Annotated[Sequence[int], Boundaries(0)]
Scales = Annotated[dict[int, Any], Factors(0)]


def follow(
    owner: str,
    formula: Callable[..., jax.Array],
    lengths: Mapping[str, int | tuple[int, ...]],
    numbers: Mapping[str, Any],
    **options: Any,
) -> Schedule:
    """Builds the schedule `count -> formula(count, **lengths, **numbers, **options)` of `owner`.

    The formula gets counts >= 0, lengths in the dtype of the count, and numbers in the working float. Where a
    length is beyond int32, counts are in the working float too. A schedule among the numbers is evaluated
    first, at the same count; `options` are static. The value is broadcast to the shape of the count.
    """
    dtype = np.float64 if any(np.max(x, initial=0) > LAST_COUNT for x in lengths.values()) else np.int32
    fixed = {name: np.asarray(length, dtype) for name, length in lengths.items()}
    run = _compiled(formula, tuple(sorted(options.items())))

    def value(count: Any) -> jax.Array:
        count = read_count(owner, count)
        return run(count, fixed, jax.tree.map(lambda x: as_operand(owner, x, count), dict(numbers)))

    return value


@functools.lru_cache(maxsize=1024)
def _compiled(formula: Callable[..., jax.Array], options: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def run(count: Any, lengths: dict[str, Any], numbers: dict[str, Any]) -> jax.Array:
        count = standard_count(count)
        if any(jnp.issubdtype(length.dtype, jnp.floating) for length in lengths.values()):
            count = count.astype(working_float())
        lengths = {name: length.astype(count.dtype) for name, length in lengths.items()}
        numbers = jax.tree.map(lambda x: x.astype(working_float()), numbers)
        return jnp.broadcast_to(formula(count, **lengths, **numbers, **dict(options)), count.shape)

    run.__name__ = run.__qualname__ = formula.__name__
    return jax.jit(run)


def working_float() -> np.dtype:
    """The dtype of every schedule's value: float32, or float64 where jax has 64 bits enabled."""
    return np.dtype(jax.dtypes.canonicalize_dtype(np.float64))


def read_count(owner: str, count: Any) -> Any:
    """A count as a strongly typed array; raises TypeError otherwise. Fractional counts are allowed."""
    if isinstance(count, int) and not isinstance(count, bool):
        return np.asarray(min(max(count, 0), LAST_COUNT), np.int32)
    if isinstance(count, float):
        return np.asarray(count, working_float())
    if isinstance(count, jax.Array | np.ndarray | np.generic):
        if jnp.issubdtype(count.dtype, jnp.integer):
            return count if isinstance(count, jax.Array) else np.clip(count, 0, LAST_COUNT).astype(np.int32)
        if jnp.issubdtype(count.dtype, jnp.floating):
            return count if isinstance(count, jax.Array) else count.astype(working_float())
    raise TypeError(
        f"{owner}: argument 'count' must be a whole number or an array of them; got {describe(count)}"
    )


def standard_count(count: Any) -> jax.Array:
    """A count >= 0 as int32 (int64 stays), or in the working float if it is a floating one."""
    if not jnp.issubdtype(count.dtype, jnp.integer):
        return jnp.maximum(count.astype(working_float()), 0)
    if jnp.issubdtype(count.dtype, jnp.unsignedinteger) and count.dtype.itemsize >= 4:
        count = jnp.minimum(count, jnp.asarray(LAST_COUNT, count.dtype))
    return jnp.maximum(count if count.dtype == np.int64 else count.astype(np.int32), 0)


def as_operand(owner: str, value: Any, count: Any) -> Any:
    """A number, array or tracer as an operand of a formula; for a schedule its value at `count`."""
    if callable(value):
        made = value(count)
        if isinstance(made, bool) or not isinstance(made, int | float | np.ndarray | np.generic | jax.Array):
            raise TypeError(f"{owner}: the schedule {show(value)} must return a number; got {describe(made)}")
        value = made if isinstance(made, jax.Array) else np.asarray(made)
        value = only_number(value) if count.shape == () else value
        real = jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        if not real or value.shape not in ((), count.shape):
            raise ValueError(
                f"{owner}: a schedule must return one real number per count; got {describe(value)} for "
                f"counts of shape {count.shape}"
            )
    return value if isinstance(value, jax.Array) else np.asarray(value, working_float())


def last_step(owner: str, name: str, steps: int, endpoint: bool) -> int:
    """The count at which a curve over `steps` steps has its end value."""
    if endpoint and steps < 2:
        raise ValueError(f"{owner}: argument '{name}' must be >= 2 with endpoint=True; got {steps}")
    return steps - bool(endpoint)


def without_length(begin: int, steps: int) -> tuple[int, int]:
    """Begin and length of a change; one of no length is one step from the step before."""
    begin = max(begin, 0)
    return (begin, steps) if steps else (begin - 1, 1)


def ratio(count: jax.Array, steps: jax.Array) -> jax.Array:
    """`count / steps` in the working float; `count` where there are no steps."""
    return count.astype(working_float()) / jnp.maximum(steps, 1).astype(working_float())


class Share(NamedTuple):
    """How much of a change is completed: `small` of it where `early`, else all but `small`.

    XLA's CPU computes a quotient that is used twice in a kernel of its own, and a sine takes as long to
    compile as a kernel. Of the completed and the remaining share only the smaller one is computed.
    """

    early: jax.Array
    small: jax.Array

    def both(self) -> tuple[jax.Array, jax.Array]:
        """The completed and the remaining share, of which the smaller one is accurate near 0."""
        large = 1 - self.small
        return jnp.where(self.early, self.small, large), jnp.where(self.early, large, self.small)


def progress(count: jax.Array, begin: Any, steps: jax.Array) -> Share:
    """The completed share of `steps` steps from `begin`.

    It is accurate near both ends, because steps are subtracted as integers. For 0 steps nothing remains.
    """
    n = jnp.clip(count - begin, 0, steps)
    rest = steps - n
    early = n < rest
    # Not a minimum: halfway, where both are equal, its derivative by a fractional count is that of neither.
    return Share(early, ratio(jnp.where(early, n, rest), steps))


def cosine(share: Share) -> Share:
    """Progress along half a cosine wave: what remains is `(1 + cos(pi * completed)) / 2`."""
    return Share(share.early, jnp.sin(jnp.pi / 2 * share.small) ** 2)


def unless_one(power: Any) -> Any:
    """An exponent for `powered`: None for a number that is 1, and not an array, a tracer or a schedule."""
    return None if isinstance(power, int | float | np.number) and power == 1 else power


def powered(share: Share, power: jax.Array | None) -> Share:
    """Progress whose remainder is `left ** power`; it is accurate near 0 through expm1 and log1p.

    Without a power it is as it was: its four functions take longer to compile than all else in a schedule.
    """
    if power is None:
        return share
    early, small = share
    # Each logarithm is taken where it is finite, so that neither gradient becomes NaN.
    log_left = jnp.where(
        early, jnp.log1p(-jnp.where(early, small, 0)), jnp.log(jnp.where(early | (small <= 0), 1, small))
    )
    _, left = share.both()
    done = jnp.where(left > 0, -jnp.expm1(power * log_left), 1)
    left = jnp.power(left, power)
    early = left > 0.5
    return Share(early, jnp.where(early, done, left))


def between(start: Any, end: Any, share: Share) -> jax.Array:
    """`start` to `end`: exactly `start` where nothing is completed, exactly `end` where nothing remains."""
    near, far = jnp.where(share.early, start, end), jnp.where(share.early, end, start)
    return near + (far - near) * share.small

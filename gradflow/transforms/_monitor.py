"""Measurements of the updates at one place of a chain, kept in the state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import as_arrays, check_like
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._dtypes import is_inexact
from gradflow._errors import describe
from gradflow._expressions._arguments import Decay
from gradflow._types import EmptyState, OptState, Pair, Params, Updates
from gradflow.transforms._ema import EmaState, ema
from gradflow.tree._paths import is_none

Measure = Callable[[Updates], Any]


class SnapshotState(NamedTuple):
    """The measurement of the last update, by its name."""

    measurement: dict[str, Any]


class MonitorState(NamedTuple):
    """The measurements of the last update, by name, and the states of those who take them."""

    measurements: dict[str, Any]
    measure_states: tuple[OptState, ...]


@transformation(leaves="any", packable=True)
def snapshot(measure_name: str, measure: Measure) -> Pair:
    """Keeps `measure(updates)` in the state, and hands the updates on as they come.

        tx = chain(snapshot("norm", tree.norm), clip_by_global_norm(1.0), adam(1e-3))
        tree.get(state, "norm")

    Args:
      measure_name: the name under which the measurement is found.
      measure: a function from updates to an array, or a tree of them.

    `init` measures the parameters for the shape and dtype, which then stay: before the first update the
    numbers are NaN (integers 0). Raises ValueError if the measurement changes its structure or shapes.
    """
    if not isinstance(measure_name, str):
        raise TypeError(f"snapshot: argument 'measure_name' must be a string; got {describe(measure_name)}")
    _check_callable("snapshot", measure)

    def init(params: Params) -> OptState:
        return SnapshotState({measure_name: _blank(measure(params))})

    def update(
        updates: Updates, state: SnapshotState, params: Params | None = None
    ) -> tuple[Updates, SnapshotState]:
        old = state.measurement[measure_name]
        return updates, SnapshotState({measure_name: _like(measure_name, measure(updates), old)})

    return init, update


@transformation(leaves="any", trees="alike", packable=True)
def monitor(measures: dict[str, GradientTransformation | Measure]) -> Pair:
    """`snapshot` of several measurements, some of which may remember.

        monitor({"norm": tree.norm, "clipped": measure_with_ema(lambda u: tree.norm(u) > 1.0, decay=0.9)})

    Args:
      measures: by name, functions from updates to an array or a tree of them, or transformations whose
        updates are the measurement. Extra arguments reach those, none of which may be required.

    Before the first update and in errors as `snapshot`.
    """
    if not isinstance(measures, dict) or not all(isinstance(name, str) for name in measures):
        raise TypeError(f"monitor: argument 'measures' must be a dict by name; got {describe(measures)}")
    for measure in measures.values():
        if not isinstance(measure, GradientTransformation):
            _check_callable("monitor", measure)

    def init(params: Params) -> OptState:
        states = tuple(
            measure.init(params) if isinstance(measure, GradientTransformation) else EmptyState()
            for measure in measures.values()
        )
        values = _take(params, states, params, {})[0]
        return MonitorState({name: _blank(value) for name, value in values.items()}, states)

    def update(
        updates: Updates, state: MonitorState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MonitorState]:
        values, states = _take(updates, state.measure_states, params, extra)
        values = {name: _like(name, value, state.measurements[name]) for name, value in values.items()}
        return updates, MonitorState(values, states)

    def _take(
        updates: Updates, states: tuple[OptState, ...], params: Params | None, extra: dict[str, Any]
    ) -> tuple[dict[str, Any], tuple[OptState, ...]]:
        values, new = {}, []
        for (name, measure), state in zip(measures.items(), states, strict=True):
            if isinstance(measure, GradientTransformation):
                values[name], state = measure.update(updates, state, params, **extra)
            else:
                values[name] = measure(updates)
            new.append(state)
        return values, tuple(new)

    return init, update


@transformation(leaves="any", trees="differ")
def measure_with_ema(
    measure: Measure, decay: Decay, debias: bool = True, accumulator_dtype: Any = None
) -> Pair:
    """For `monitor`: the average of a measurement, in which each weighs less as it ages.

    Args:
      measure: a function from updates to an array, or a tree of them; booleans count as 0 and 1.
      decay: in [0, 1).
      debias: divides by the sum of the weights so far.
      accumulator_dtype: dtype of the average; float32 at least by default.

    See `ema`. By itself it is no stage of a chain: its updates are the average.
    """
    _check_callable("measure_with_ema", measure)
    average = ema(decay, debias, accumulator_dtype)

    def init(params: Params) -> OptState:
        return average.init(_numbers(measure(params)))

    def update(updates: Updates, state: EmaState, params: Params | None = None) -> tuple[Updates, EmaState]:
        return average.update(_numbers(measure(updates)), state)

    return init, update


def _check_callable(owner: str, measure: Any) -> None:
    if not callable(measure):
        raise TypeError(f"{owner}: a measure must be a function of the updates; got {describe(measure)}")


def _numbers(measured: Any) -> Any:
    """A measurement in floating-point numbers."""
    return jax.tree.map(lambda x: x if is_inexact(x.dtype) else x.astype(jnp.float32), as_arrays(measured))


def _blank(measured: Any) -> Any:
    """A measurement of this one's form that has not been taken."""
    return jax.tree.map(
        lambda x: tree.full_like(x, jnp.nan if is_inexact(x.dtype) else 0), as_arrays(measured)
    )


def _like(name: str, measured: Any, old: Any) -> Any:
    """A measurement in the dtypes of the last one, and in buffers of its own."""
    measured = as_arrays(measured)
    check_like(f"the measurement '{name}' of the updates", measured, "the one of init", old)

    def put(x: Any, o: Any) -> Any:
        # Where there is no update there may be no measurement; the state has room for what init found.
        return o if x is None or o is None else jnp.array(x, o.dtype, copy=True)

    return jax.tree.map(put, measured, old, is_leaf=is_none)

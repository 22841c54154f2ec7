"""Measurements of the updates at one place of a chain, stored in the state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._calls._checks import as_arrays, check_like
from gradflow._calls._reports import missing
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
    """The measurements of the last update, by name, and the states of stateful measures."""

    measurements: dict[str, Any]
    measure_states: tuple[OptState, ...]


@transformation(leaves="any", packable=True, stackable=False)
def snapshot(measure_name: str, measure: Measure) -> Pair:
    """Stores `measure(updates)` in the state, and passes the updates through.

        tx = chain(snapshot("norm", tree.norm), clip_by_global_norm(1.0), adam(1e-3))
        tree.get(state, "norm")

    Args:
      measure_name: the name of the measurement in the state.
      measure: a function from updates to an array, or a tree of arrays.

    `init` measures the parameters, which fixes shapes and dtypes. Before the first update the values are
    NaN, or 0 for integers. Raises ValueError if the measurement changes its structure or shapes.

    >>> import gradflow as gf
    >>> tx = gf.snapshot("norm", gf.tree.norm)
    >>> updates, state = tx.update([3.0, 4.0], tx.init([0.0, 0.0]))
    >>> float(gf.tree.get(state, "norm"))
    5.0
    """
    if not isinstance(measure_name, str):
        raise TypeError(f"snapshot: argument 'measure_name' must be a string; got {describe(measure_name)}")
    _check_callable("snapshot", measure)

    def init(params: Params) -> OptState:
        return SnapshotState({measure_name: _initial_values(measure(params))})

    def update(
        updates: Updates, state: SnapshotState, params: Params | None = None
    ) -> tuple[Updates, SnapshotState]:
        old = state.measurement[measure_name]
        return updates, SnapshotState({measure_name: _match_last(measure_name, measure(updates), old)})

    return init, update


@transformation(leaves="any", trees="alike", packable=True, stackable=False)
def monitor(measures: dict[str, GradientTransformation | Measure]) -> Pair:
    """Stores several measurements, like `snapshot`; some of them may be stateful.

        monitor({"norm": tree.norm, "clipped": measure_with_ema(lambda u: tree.norm(u) > 1.0, decay=0.9)})

    Args:
      measures: a dict from names to functions from updates to arrays, or to transformations whose updates
        are the measurement. Extra arguments are passed to these, but may not be required.

    Initial values and errors are as in `snapshot`.

    >>> import gradflow as gf
    >>> tx = gf.monitor({"norm": gf.tree.norm, "largest": gf.tree.max})
    >>> updates, state = tx.update([3.0, 4.0], tx.init([0.0, 0.0]))
    >>> float(state.measurements["largest"])
    4.0
    """
    if not isinstance(measures, dict) or not all(isinstance(name, str) for name in measures):
        raise TypeError(f"monitor: argument 'measures' must be a dict of measures; got {describe(measures)}")
    for measure in measures.values():
        if not isinstance(measure, GradientTransformation):
            _check_callable("monitor", measure)

    def init(params: Params) -> OptState:
        states = tuple(
            measure.init(params) if isinstance(measure, GradientTransformation) else EmptyState()
            for measure in measures.values()
        )
        values = _measure_all(params, states, params, {})[0]
        return MonitorState({name: _initial_values(value) for name, value in values.items()}, states)

    def update(
        updates: Updates, state: MonitorState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MonitorState]:
        values, states = _measure_all(updates, state.measure_states, params, extra)
        values = {name: _match_last(name, value, state.measurements[name]) for name, value in values.items()}
        return updates, MonitorState(values, states)

    def _measure_all(
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
    """Averages a measurement for `monitor`, with exponentially decaying weights.

    Args:
      measure: a function from updates to an array, or a tree of them; booleans count as 0 and 1.
      decay: of the average, in [0, 1).
      debias: divides by the sum of the weights so far.
      accumulator_dtype: dtype of the average; float32 at least by default.

    See `ema`. It is not a stage of a chain: its updates are the average.

    >>> import gradflow as gf
    >>> tx = gf.monitor({"norm": gf.measure_with_ema(gf.tree.norm, 0.9)})
    >>> updates, state = tx.update([3.0, 4.0], tx.init([0.0, 0.0]))
    >>> round(float(state.measurements["norm"]), 3)
    5.0
    """
    _check_callable("measure_with_ema", measure)
    average = ema(decay, debias, accumulator_dtype)

    def init(params: Params) -> OptState:
        return average.init(_as_floats(measure(params)))

    def update(updates: Updates, state: EmaState, params: Params | None = None) -> tuple[Updates, EmaState]:
        return average.update(_as_floats(measure(updates)), state)

    return init, update


def _check_callable(owner: str, measure: Any) -> None:
    if not callable(measure):
        raise TypeError(f"{owner}: every measure must be a function of the updates; got {describe(measure)}")


def _as_floats(measured: Any) -> Any:
    """A measurement in floating-point numbers."""
    return jax.tree.map(lambda x: x if is_inexact(x.dtype) else x.astype(jnp.float32), as_arrays(measured))


def _initial_values(measured: Any) -> Any:
    """The initial value of a measurement with this structure."""
    return jax.tree.map(
        lambda x: tree.full_like(x, missing() if is_inexact(x.dtype) else 0), as_arrays(measured)
    )


def _match_last(name: str, measured: Any, old: Any) -> Any:
    """A measurement in the dtypes of the last one, in new buffers."""
    measured = as_arrays(measured)
    check_like(f"the measurement '{name}' of the updates", measured, "the one of init", old)

    def put(x: Any, o: Any) -> Any:
        # Without an update there may be no measurement; the state keeps the structure of init.
        return o if x is None or o is None else jnp.array(x, o.dtype, copy=True)

    return jax.tree.map(put, measured, old, is_leaf=is_none)

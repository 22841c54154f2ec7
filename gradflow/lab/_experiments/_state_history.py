"""`state_plot`: records norms, ratios and histograms of a training run."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradflow import tree
from gradflow._checked import MAPPING, checked
from gradflow._errors import describe
from gradflow._expressions._printing import show
from gradflow._training._step import make_step
from gradflow.lab._arguments import COUNT, LOSS, PARAMS, SEED
from gradflow.lab._candidates._candidates import one_optimizer
from gradflow.lab._experiments._plan import check_whole_number
from gradflow.lab._experiments._program import CannotRunError, Carry, set_up
from gradflow.lab._results._state_history import Histogram, StateHistory
from gradflow.lab._tasks._catalog import choose_task
from gradflow.lab._tasks._task import Task
from gradflow.wrappers import metrics, with_metrics

_NESTS = ("inner_state", "inner_states", "metrics", "state")  # fields that hold states, not numbers


@checked(loss_fn=LOSS, params=PARAMS, steps=COUNT, seed=SEED, trees=MAPPING | None)
def state_plot(
    source: Any,
    *,
    task: str | Task | None = None,
    loss_fn: Callable[..., Any] | None = None,
    params: Any = None,
    batches: Any = None,
    steps: int = 200,
    seed: int = 0,
    state: Any = None,
    trees: Mapping[str, Any] | None = None,
) -> StateHistory:
    """Records what the stages of an optimizer report at each step; the result has `.plot()`.

        state_plot("chain(clip_by_global_norm(1.0), adamw(1e-2))", task="digits").plot()
        state_plot([{"loss": 0.3, **metrics(state)}, ...], state=state).plot()   # from your own loop

    Args:
      source: an optimizer (a name, an expression as text, or a transformation), which takes `steps` steps on
        a task or on your own problem, as in `compare`. Or your own history: a list with a dict of scalars for
        each step, such as those of `metrics(state)`.
      state: with a history, a state whose histograms are shown.
      trees: with a history, more trees for histograms, by name.
    """
    if not isinstance(source, str) and not hasattr(source, "_fields"):
        if not isinstance(source, Iterable):
            raise TypeError(
                "state_plot: argument 'source' must be an optimizer, or a list of dicts of scalars; "
                f"got {describe(source)}"
            )
        return _history("your own history", list(source), state, trees or {})
    check_whole_number("state_plot", "steps", steps, 1)
    tx = one_optimizer(source, "state_plot")
    chosen = choose_task(task, loss_fn, params, batches, steps, "state_plot")
    setting = set_up(chosen, [seed], steps, "state_plot")
    begin = jax.tree.map(lambda leaf: leaf[0], setting.starts)
    measured = tx if _measures(tx, begin) else with_metrics(tx)
    update = make_step(chosen.loss_fn, measured)

    def step(carry: Carry, indices: jax.Array, train: Any) -> tuple[Carry, dict[str, jax.Array]]:
        before = tree.norm(carry[0])
        new_params, new_state, result = update(*carry, jax.tree.map(lambda leaf: leaf[indices], train))
        seen = {"loss": result.value, "parameter_norm": before, **metrics(new_state)}
        return (new_params, new_state), {n: jnp.asarray(v, jnp.float32) for n, v in seen.items()}

    @jax.jit
    def run(begin: Any, order: jax.Array, train: Any) -> tuple[Carry, dict[str, jax.Array]]:
        return jax.lax.scan(lambda c, i: step(c, i, train), (begin, measured.init(begin)), order)

    try:
        (end, end_state), series = run(begin, setting.order[0], setting.train)
    except (TypeError, ValueError) as error:
        raise CannotRunError(
            "state_plot: argument 'source' must train on the task; "
            f"got an optimizer that cannot run here: {error}"
        ) from error
    found = {name: np.asarray(values, float).tolist() for name, values in series.items()}
    shown = {"parameters": end, **_fields(end_state), **(trees or {})}
    return _result(f"{chosen.name}: {show(tx)}", found, shown)


def _measures(tx: Any, params: Any) -> bool:
    try:
        metrics(jax.eval_shape(tx.init, params))
    except ValueError:
        return False
    return True


def _history(title: str, rows: list[Any], state: Any, trees: Mapping[str, Any]) -> StateHistory:
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(
            "state_plot: argument 'source' must be a list with a dict of scalars for each step, "
            f"at least one; got {describe(rows)}"
        )
    series: dict[str, list[float]] = {name: [] for row in rows for name in row}
    for row in rows:
        for name, values in series.items():
            value = np.asarray(row.get(name, np.nan))
            if value.shape != ():
                raise ValueError(
                    f"state_plot: argument 'source' must have a scalar '{name}' at every step; "
                    f"got shape {value.shape}"
                )
            values.append(float(value))
    return _result(title, series, {**({} if state is None else _fields(state)), **trees})


def _result(title: str, series: dict[str, list[float]], trees: Mapping[str, Any]) -> StateHistory:
    def ratio(above: str, below: str) -> list[float]:
        up, down = np.asarray(series[above]), np.asarray(series[below])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(down > 0, up / down, np.nan).tolist()

    pairs = [("update_norm", "parameter_norm"), ("update_norm", "gradient_norm")]
    ratios = {f"{a} / {b}": ratio(a, b) for a, b in pairs if a in series and b in series}
    series = {name: values for name, values in series.items() if name != "update_ratio" or not ratios}
    histograms = {name: found for name, value in trees.items() if (found := histogram(value)) is not None}
    return StateHistory(title, series, ratios, histograms)


def _fields(state: Any) -> dict[str, list[Any]]:
    """The arrays of a state by the name of their field, without scalars."""
    found: dict[str, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        name = next((name for name in names if name not in _NESTS), "state")
        if np.ndim(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            found.setdefault(name, []).append(leaf)
    return found


def histogram(value: Any, bins: int = 60) -> Histogram | None:
    """The histogram of all floating-point numbers of a tree; None where there are none."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(value)]
    arrays = [np.abs(x.astype(float)).ravel() for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not arrays:
        return None
    numbers = np.concatenate(arrays)
    finite = numbers[np.isfinite(numbers)]
    logs = np.log10(finite[finite > 0])
    low, high = (float(logs.min()), float(logs.max())) if logs.size else (0.0, 0.0)
    pad = max(0.0, 1 - (high - low)) / 2  # at least one decade
    edges = np.linspace(low - pad, high + pad, bins + 1)
    counts = np.histogram(logs, edges)[0]
    return Histogram(
        edges.tolist(), counts.tolist(), int((finite == 0).sum()), int(numbers.size - finite.size)
    )

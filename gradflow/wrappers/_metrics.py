"""Keeps the reports of all stages in the state, where a training loop reads them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._reports import collecting, forward, is_collecting, missing, note, report
from gradflow._calls._scalars import with_scalars_together
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation, below, declared_reports
from gradflow._errors import describe
from gradflow._rules._mesh_axes import AxisName, axes_of, check_axis_name, global_norm, sum_axes
from gradflow._rules._state import zero_scalar
from gradflow._selection._masks import resolve_mask
from gradflow._selection._partial_trees import keep_where
from gradflow._selection._selectors import as_selector
from gradflow._tables import table
from gradflow._types import OptState, Pair, Params, Updates


class MetricsState(NamedTuple):
    """The reports of the last update, by stage and name, and the inner state."""

    metrics: dict[str, jax.Array]
    inner_state: OptState


_OWN = ("gradient_norm", "update_norm", "parameter_norm", "update_ratio", "nonfinite")
_OF_A_GROUP = _OWN[:-1]


@transformation(reports=_OWN, packable=True)
def with_metrics(
    inner: GradientTransformation,
    groups: Mapping[str, Any] | None = None,
    *,
    axis_name: AxisName = None,
) -> Pair:
    """Keeps the reports of all inner stages, and norms of gradient, update and parameters, in the state.

        gradient_norm, update_norm, parameter_norm    2-norms over all leaves
        update_ratio                                  update_norm / parameter_norm
        nonfinite                                     entries of the gradient that are NaN or infinite

    `metrics(state)` returns them: float32 scalars by stage and name, such as `clip_by_global_norm.norm`. They
    are NaN before the first update, for a stage that did not run, and without parameters. The structure never
    changes, so the state goes through jit, scan and cond. Without this wrapper no report is computed.

    Args:
      inner: any transformation.
      groups: groups of parameters by name, each a pattern of paths or a selector, for norms of their own:
        `{"encoder": "encoder/**"}` gives `encoder/gradient_norm`. Groups may overlap.
      axis_name: axes of `shard_map` over which the devices sum; `()` for replicated updates.

    Raises ValueError inside `shard_map` without `axis_name`.

    >>> import gradflow as gf
    >>> print(gf.with_metrics(gf.adamw(1e-3)))
    with_metrics(adamw(0.001))
    """
    check_axis_name("with_metrics", axis_name)
    chosen = {name: as_selector(group) for name, group in (groups or {}).items()}
    of_groups = [f"{group}/{name}" for group in chosen for name in _OF_A_GROUP]
    names = (*_OWN, *of_groups, *declared_reports(inner))
    # The norms read whole updates. Kernels that a GPU joins would keep all of them: half a model for adamw.
    inner_update = with_scalars_together(inner.update, joins_leaves=False)

    def init(params: Params) -> OptState:
        for selector in chosen.values():
            resolve_mask(selector, params)  # so that a wrong pattern raises here and not at the first step
        blank = {name: zero_scalar(params, jnp.float32, missing()) for name in names}
        return MetricsState(blank, inner.init(params))

    def update(
        updates: Updates, state: MetricsState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MetricsState]:
        axes = sum_axes(axis_name, updates)
        with collecting() as recorded:
            new_updates, inner_state = inner_update(updates, state.inner_state, params, **extra)
        values = dict.fromkeys(names, jnp.full((), missing(), jnp.float32))
        values |= {n: value for n, value in below(inner, recorded.values).items() if n in values}
        values |= _norms(updates, new_updates, params, axes)
        values["nonfinite"] = _count_nonfinite(updates, values["gradient_norm"], axes)
        for group, selector in chosen.items():
            keep = resolve_mask(selector, updates if params is None else params)
            own = None if params is None else keep_where(keep, params)
            found = _norms(keep_where(keep, updates), keep_where(keep, new_updates), own, axes)
            values |= {f"{group}/{name}": value for name, value in found.items()}
        for name, value in recorded.notes.items():
            note(name, value)
        if is_collecting():
            for name in _OWN:
                report(name, values[name])
            forward(recorded.values)
        return new_updates, MetricsState(values, inner_state)

    return init, update


def _norms(
    grads: Updates, updates: Updates, params: Params | None, axes: tuple[str, ...]
) -> dict[str, jax.Array]:
    found = {
        "gradient_norm": global_norm(grads, axes).astype(jnp.float32),
        "update_norm": global_norm(updates, axes).astype(jnp.float32),
    }
    if params is not None:
        size = global_norm(params, axes).astype(jnp.float32)
        found["parameter_norm"] = size
        found["update_ratio"] = jnp.where(
            size > 0, found["update_norm"] / jnp.where(size > 0, size, 1), missing()
        )
    return found


def _count_nonfinite(grads: Updates, norm: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """Counts the entries that are not finite; the gradient is read again only if its norm is not finite."""

    def count(grads: Updates) -> jax.Array:
        total = jnp.zeros((), jnp.float32)
        for g in jax.tree.leaves(grads):
            bad = jnp.sum(~jnp.isfinite(g), dtype=jnp.int32).astype(jnp.float32)
            names = axes_of(g, axes)
            total += jax.lax.psum(bad, names) if names else bad
        return total

    return jax.lax.cond(jnp.isfinite(norm), lambda _: jnp.zeros((), jnp.float32), count, grads)


@jax.tree_util.register_pytree_with_keys_class
class Metrics(dict[str, jax.Array]):
    """Metrics by name: a dict that a notebook shows as a table."""

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, jax.Array]], tuple[str, ...]]:
        """The values, sorted by name as for a dict."""
        names = tuple(sorted(self))
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Iterable[Any]) -> "Metrics":
        """The same names with other values."""
        return cls(zip(names, values, strict=True))

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{float(value):.6g}" if np.shape(value) == () else describe(value))
            for name, value in self.items()
        ]
        return table(("metric", "value"), rows, (0,))


def metrics(state: OptState) -> Metrics:
    """Returns the metrics that `with_metrics` keeps anywhere in a state, by name.

    Raises ValueError where there are none, or several of the same name.

    >>> import gradflow as gf
    >>> tx = gf.with_metrics(gf.chain(gf.clip_by_global_norm(1.0), gf.sgd(0.1)))
    >>> updates, state = tx.update([3.0, 4.0], tx.init([0.0, 0.0]))
    >>> float(gf.metrics(state)["clip_by_global_norm.norm"])
    5.0
    """
    found = Metrics()
    kept = [
        part
        for part in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, MetricsState))
        if isinstance(part, MetricsState)
    ]
    if not kept:
        raise ValueError(
            "metrics: argument 'state' must be a state that keeps metrics; got none. "
            "Wrap the transformation in with_metrics(...)"
        )
    for part in kept:
        for name, value in part.metrics.items():
            if name in found:
                raise ValueError(
                    f"metrics: argument 'state' must keep each metric once; got several of '{name}'"
                )
            found[name] = value
    return found

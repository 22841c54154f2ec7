"""Reports of all stages, kept in the state where a training loop can read them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradflow import tree
from gradflow._base import GradientTransformation, OptState, Pair, Params, Updates, transformation
from gradflow._report import below, collecting, declared_reports, forward, is_collecting, note, report
from gradflow._state import zero_scalar


class MetricsState(NamedTuple):
    """What was reported at the last update, by stage and name, and the inner state."""

    metrics: dict[str, jax.Array]
    inner_state: OptState


_OWN = ("gradient_norm", "update_norm")


@transformation(reports=_OWN)
def with_metrics(inner: GradientTransformation) -> Pair:
    """Keeps what the stages inside report, and the norms of gradient and update, in the state.

    Read them with `metrics(state)`: float32 scalars by stage and name, `clip_by_global_norm.norm`, NaN
    until the first update and for a stage that was not run. The structure never changes, so the state
    goes through jit, scan and cond.
    """
    names = (*_OWN, *declared_reports(inner))

    def init(params: Params) -> OptState:
        blank = {name: zero_scalar(params, jnp.float32, float("nan")) for name in names}
        return MetricsState(blank, inner.init(params))

    def update(
        updates: Updates, state: MetricsState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MetricsState]:
        with collecting() as heard:
            new_updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        values = dict.fromkeys(names, jnp.full((), jnp.nan, jnp.float32))
        values |= {n: value for n, value in below(inner, heard.values).items() if n in values}
        values["gradient_norm"] = tree.norm(updates).astype(jnp.float32)
        values["update_norm"] = tree.norm(new_updates).astype(jnp.float32)
        for name, value in heard.notes.items():
            note(name, value)
        if is_collecting():
            for name in _OWN:
                report(name, values[name])
            forward(heard.values)
        return new_updates, MetricsState(values, inner_state)

    return init, update


def metrics(state: OptState) -> dict[str, jax.Array]:
    """The metrics kept by `with_metrics` anywhere in a state.

    Raises ValueError where there are none, or several by the same name.
    """
    found: dict[str, jax.Array] = {}
    kept = [
        part
        for part in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, MetricsState))
        if isinstance(part, MetricsState)
    ]
    if not kept:
        raise ValueError("metrics: this state keeps none; wrap the transformation in with_metrics(...)")
    for part in kept:
        for name, value in part.metrics.items():
            if name in found:
                raise ValueError(f"metrics: several stages of this state keep '{name}'")
            found[name] = value
    return found

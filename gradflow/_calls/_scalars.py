"""The numbers of one step, which a GPU computes in one kernel and reads from one array."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._calls._context import context
from gradflow._kernel_hints._joining import LINKED, in_one_array, in_one_kernel
from gradflow._types import OptState, Updates


class StepScalars(NamedTuple):
    """Numbers that rules derive in one trace.

    `joins_leaves`: whether a GPU may join the kernels of equal leaves; `parts`: into how many each of these
    is cut; `in_arrays`: the names of what they read from an array.
    """

    trace: Any
    found: list[jax.Array]
    joins_leaves: bool
    parts: int
    in_arrays: set[str]


def record_scalars(values: Iterable[Any]) -> None:
    """Adds numbers to those of the step being traced; those of an inner trace are left out."""
    step = context.scalars
    if step is not None:
        step.found.extend(_linkable(values, step.trace))


def parts_of_a_kernel(leaf: Any) -> int:
    """Into how many kernels one for leaves like this one is cut; 0 where a GPU may not join theirs."""
    step = context.scalars
    # What is traced inside, such as a norm, is kept for other steps.
    joins = step is not None and step.joins_leaves and getattr(leaf, "_trace", None) is step.trace
    return step.parts if step is not None and joins else 0


def for_joined_leaves(numbers: dict[str, Any], precision: Any, parts: int) -> list[dict[str, Any]]:
    """The numbers of a rule for each part of leaves that join, which a GPU reads from one array per part.

    These are the computed ones. If there are none, they are the constants, in the first rule alone.
    """
    step = context.scalars
    floats = {name: x for name, x in numbers.items() if x.dtype == precision and x.shape == ()}
    computed = {name: x for name, x in floats.items() if isinstance(x, jax.core.Tracer)}
    chosen = computed or ({} if step is None or step.in_arrays else floats)
    if step is None or not chosen:
        return [numbers] * parts
    step.in_arrays.update(chosen)
    values = in_one_array(list(chosen.values()))
    arrays = [values]
    for part in range(1, parts):
        if computed:
            arrays.append(in_one_array(values, part))
        else:  # equal arrays of constants would be one
            arrays.append(in_one_array([*chosen.values(), np.asarray(part, precision)]))
    return [{**numbers, **dict(zip(chosen, array, strict=False))} for array in arrays]


def with_scalars_together(
    update: Callable[..., Any], joins_leaves: bool | None = None, parts: int = 1
) -> Callable[..., Any]:
    """An update whose scalars are computed in one kernel, where kernels are launched one by one.

    These are the scalars of the new state and the numbers that rules derive, such as bias corrections. With
    `joins_leaves` a GPU joins the kernels of equal leaves. Where a stage writes whole leaves for the next
    one, joined kernels would keep those of all leaves. None: as outside. `parts` cut these kernels further.
    """

    def together(updates: Updates, state: OptState, *rest: Any, **extra: Any) -> tuple[Updates, OptState]:
        before, context.scalars = context.scalars, None
        for leaf in jax.tree.leaves((state, updates)):
            if isinstance(leaf, jax.core.Tracer):
                joins = before is not None and before.joins_leaves if joins_leaves is None else joins_leaves
                cut = parts * (1 if before is None else before.parts)
                context.scalars = StepScalars(getattr(leaf, "_trace", None), [], joins, cut, set())
                break
        try:
            new_updates, new_state = update(updates, state, *rest, **extra)
            return new_updates, _together(state, new_state)
        finally:
            context.scalars = before

    return together


def _together(old: OptState, new: OptState) -> OptState:
    step = context.scalars
    if step is None:
        return new
    leaves, structure = jax.tree.flatten(new)
    before = {id(leaf) for leaf in jax.tree.leaves(old)}
    chosen = {id(x): x for x in _linkable(leaves, step.trace) if id(x) not in before}
    if not chosen:
        return new
    derived = {id(x): x for x in step.found if id(x) not in before and id(x) not in chosen}
    linked = in_one_kernel([*derived.values(), *chosen.values()])[len(derived) :]
    replaced = dict(zip(chosen, linked, strict=True))
    return jax.tree.unflatten(structure, [replaced.get(id(leaf), leaf) for leaf in leaves])


def _linkable(values: Iterable[Any], trace: Any) -> list[jax.Array]:
    """Those that are scalars of one trace, of types that can be linked."""
    return [
        x
        for x in values
        if isinstance(x, jax.core.Tracer)
        and x.shape == ()
        and x.dtype in LINKED
        and getattr(x, "_trace", None) is trace
    ]

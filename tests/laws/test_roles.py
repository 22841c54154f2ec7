"""The roles of a state's fields are true, and every average can be coded."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from specs import CASES, build

import gradflow as gf
from gradflow._coding._leaves import is_coded
from gradflow._core._transformation import stages_of
from gradflow._rules._roles import roles_of
from laws.support import abstract_update, run_interpreted

SHAPES = {"kernel": (4, 3), "bias": (3,)}  # of the tree of other laws, whose operations are compiled
PARAMS = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}

# Cases whose large arrays are of their users' making.
MADE_BY_USERS = {"lookahead", "lookahead-reset", "monitor", "snapshot", "snapshot-signs", "measure_with_ema"}


def by_role(state: Any, role: str | None = None) -> Iterator[tuple[str | None, str, Any]]:
    """The floating-point arrays of a state, with their roles and fields."""
    kind: Any = type(state)
    if hasattr(kind, "_fields"):
        for name, value in zip(kind._fields, state, strict=True):
            for own, field, leaf in by_role(value, roles_of(kind).get(name, role)):
                yield own, field or f"{kind.__name__}.{name}", leaf
        return
    for leaf in jax.tree.leaves(state, is_leaf=lambda x: x is not state and hasattr(type(x), "_fields")):
        if hasattr(type(leaf), "_fields"):
            yield from by_role(leaf, role)
        elif jnp.issubdtype(leaf.dtype, np.inexact):
            yield role, "", leaf


def stateful() -> list[str]:
    """Cases enough for every field of every state to be in one."""
    seen: set[Any] = set()
    chosen = []
    for case in sorted(CASES, key=lambda case: len(list(stages_of(build(case))))):
        state = jax.eval_shape(build(case).init, PARAMS)
        if isinstance(state, gf.CodedState):
            continue
        fields = {field for _, field, leaf in by_role(state) if leaf.shape in SHAPES.values()}
        if not fields <= seen:
            chosen.append(case)
            seen |= fields
    return chosen


STATEFUL = stateful()


def test_every_large_array_has_a_role() -> None:
    for case in set(STATEFUL) - MADE_BY_USERS:
        for role, field, leaf in by_role(jax.eval_shape(build(case).init, PARAMS)):
            assert role is not None or leaf.size < 12, (case, field)


def _signed(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("case", STATEFUL)
def test_roles_are_true(case: str) -> None:
    """Weights are the parameters at init, or not begun. Squares are never negative."""
    params = _signed(0)
    tx = build(case)
    first = tx.init(params)
    for role, field, leaf in by_role(first):
        if role == "weights" and leaf.shape in SHAPES.values():
            # An average that has not begun is zero.
            assert not np.any(leaf) or any(np.array_equal(leaf, p) for p in params.values()), field
    if "square" not in {role for role, _, _ in by_role(first)}:
        return
    _, _, last = run_interpreted(tx, params, [_signed(1), _signed(2)])
    for role, field, leaf in by_role(last):
        assert role != "square" or np.all(np.asarray(leaf) >= 0), field


@pytest.mark.parametrize("case", STATEFUL)
def test_every_average_can_be_coded(case: str) -> None:
    """Its rule runs as it is on codes, which come back in the same form."""
    inner = build(case)
    tx = gf.quantize_state(inner, block=4, min_size=1)
    state = jax.eval_shape(tx.init, PARAMS)
    averages = [
        field
        for role, field, leaf in by_role(jax.eval_shape(inner.init, PARAMS))
        if role in ("mean", "square") and leaf.ndim
    ]
    coded = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_coded) if is_coded(leaf)]
    assert len(coded) == len(averages)
    _, after = abstract_update(tx, PARAMS, state, PARAMS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )

"""States whose arrays are coded leaves: which of them, by the roles of their fields."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gradflow._calls._context import context, decoding, stage_name
from gradflow._coding._leaves import is_coded
from gradflow._core._transformation import GradientTransformation, stages_of
from gradflow._dtypes import is_complex
from gradflow._errors import describe
from gradflow._rules._roles import roles_of
from gradflow._rules._state import zero_scalar
from gradflow._types import OptState, Pair, Params, Updates


class CodedState(NamedTuple):
    """The state of the inner transformation, with coded leaves."""

    inner_state: OptState


class Field(NamedTuple):
    """A field of a state, and its role."""

    state_type: type
    name: str
    role: str


# Makes a coded leaf of an array, with a seed; returns another array as it is.
Coder = Callable[[jax.Array, Any], Any]


def fields_of(inner: GradientTransformation) -> dict[str, Field]:
    """The fields that have a role, by stage and name: `scale_by_adam.mu`."""
    return {
        f"{stage.expression.name}.{name}": Field(stage.signature.state_type, name, role)
        for stage in stages_of(inner)
        if stage.signature.state_type is not None
        for name, role in roles_of(stage.signature.state_type).items()
    }


def coded_state(
    inner: GradientTransformation, coder_of: Callable[[Field], Coder | None], rounding: str
) -> Pair:
    """The body of a wrapper that codes the fields of the state of `inner` for which there is a coder."""

    def init(params: Params) -> OptState:
        state = inner.init(params)
        coded: dict[int, Any] = {}
        for field, leaf in _leaves(state):
            code = coder_of(field)
            if code is not None:
                seed = zero_scalar(params, np.uint32, first_seed(len(coded)))
                coded[id(leaf)] = code(leaf, seed if rounding == "stochastic" else ())

        def replace(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: coded.get(id(leaf), leaf), tree)

        if context.inits is not None:
            context.inits[:] = [(*record[:-1], replace(record[-1])) for record in context.inits]
        return CodedState(replace(state))

    def update(
        updates: Updates, state: CodedState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, CodedState]:
        with decoding():
            updates, inner_state = inner.update(updates, state.inner_state, params, **extra)
        return updates, CodedState(inner_state)

    return init, update


def first_seed(index: int) -> int:
    """The first seed of the coded leaf with this number; each step adds 1."""
    return index * 0x9E3779B1 % 2**32


def check_rounding(owner: str, rounding: str) -> None:
    """Raises ValueError unless `rounding` is a way to round."""
    if rounding not in ("stochastic", "nearest"):
        raise ValueError(f"{owner}: argument 'rounding' must be 'stochastic' or 'nearest'; got {rounding!r}")


def check_real(field: Field, leaf: jax.Array) -> None:
    """Raises TypeError for a complex array."""
    if is_complex(leaf.dtype):
        raise TypeError(
            f"{stage_name()}: the field '{field.name}' of {field.state_type.__name__} must hold real "
            f"numbers; got {describe(leaf)}. Wrap it in split_real_and_imaginary, or "
            "leave the leaf out with masked"
        )


def _leaves(node: Any) -> Iterator[tuple[Field, jax.Array]]:
    """The floating-point arrays of one axis or more in the fields of a state that have a role."""
    for part in jax.tree.leaves(node, is_leaf=_has_roles):
        if not _has_roles(part):
            continue
        kind: Any = type(part)
        roles = roles_of(kind)
        for name, value in zip(part._fields, part, strict=True):
            if name not in roles:
                yield from _leaves(value)
                continue
            field = Field(kind, name, roles[name])
            for leaf in jax.tree.leaves(value, is_leaf=is_coded):
                if not is_coded(leaf) and leaf.ndim and jax.numpy.issubdtype(leaf.dtype, np.inexact):
                    yield field, leaf


def _has_roles(node: Any) -> bool:
    kind: Any = type(node)
    return hasattr(kind, "_fields") and len(roles_of(kind)) > 0

"""Extra arguments for a transformation that sees the parameters in another form: a part of them, a vector.

Functions of all parameters become functions of the inner form, at the present values of what it lacks.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from gradflow._selection._partial_trees import mask_out, merge
from gradflow._types import is_absent

_TREES = ("grad", "grads")
_FUNCTIONS = ("value_fn", "obj_fn", "grad_fn")


def inner_arguments(
    extra: Mapping[str, Any], to_inner: Callable[[Any], Any], to_outer: Callable[[Any], Any]
) -> dict[str, Any]:
    """The extra arguments with gradients, and functions of the parameters, in the inner form.

    `to_inner` takes a tree like the parameters to the inner form; `to_outer` takes parameters back.
    """
    changed = dict(extra)
    for name in _TREES:
        if extra.get(name) is not None:
            changed[name] = to_inner(extra[name])
    for name in _FUNCTIONS:
        if callable(extra.get(name)):
            changed[name] = _of_inner(extra[name], to_inner if name == "grad_fn" else None, to_outer)
    return changed


def part_arguments(extra: Mapping[str, Any], keep: Any, params: Any) -> dict[str, Any]:
    """`inner_arguments` for the leaves where the resolved mask `keep` is not False."""
    if params is None or not extra.keys() & {*_TREES, *_FUNCTIONS}:
        return dict(extra)
    rest = mask_out(_opposite(keep), params)
    return inner_arguments(
        extra,
        functools.partial(mask_out, keep),
        lambda part: merge(keep, {True: part, False: rest}, params),
    )


def _opposite(keep: Any) -> Any:
    return jax.tree.map(lambda k: k if is_absent(k) else not k, keep, is_leaf=is_absent)


def _of_inner(
    function: Callable[..., Any], result: Callable[[Any], Any] | None, to_outer: Callable[[Any], Any]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def of_inner(params: Any, *args: Any, **kwargs: Any) -> Any:
        found = function(to_outer(params), *args, **kwargs)
        return found if result is None else result(found)

    return of_inner

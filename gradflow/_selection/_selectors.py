"""Selectors choose parameters by path, rank, dtype or size, and are accepted wherever a mask is.

adamw(1e-3, mask=~paths("**/bias", "**/norm/**"))
masked(clip(1.0), paths("encoder/**") & ndim(2))
"""

import fnmatch
import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from gradflow._calls._context import stage_name
from gradflow._checked import Kind
from gradflow._errors import describe, names_hint
from gradflow._expressions._factory import decorate
from gradflow._expressions._functions import FunctionValue, register_functions
from gradflow._expressions._keys import DTYPE_FAMILIES
from gradflow._selection._parameters import Parameter, named_leaves
from gradflow._types import is_absent

Choose = Callable[[Sequence[Parameter]], list[bool]]


class Selector(FunctionValue):
    """A choice of parameters. Called on a tree it returns a tree of booleans, with None for absent leaves.

    `~a` chooses what `a` does not, `a | b` what either chooses, and `a & b` what both choose.
    """

    __slots__ = ()

    def __call__(self, params: Any) -> Any:
        named, structure = named_leaves(params)
        chosen = self.choose(named)
        leaves = [None if is_absent(p.leaf) else c for p, c in zip(named, chosen, strict=True)]
        return jax.tree.unflatten(structure, leaves)

    def choose(self, parameters: Sequence[Parameter]) -> list[bool]:
        """Which of these parameters are chosen; absent ones are included, with their paths."""
        return cast(list[bool], self._function(parameters))

    def __invert__(self) -> "Selector":
        return none_of(self)

    def __or__(self, other: "Selector | str") -> "Selector":
        return any_of(self, other)

    def __and__(self, other: "Selector | str") -> "Selector":
        return all_of(self, other)

    __ror__ = __or__
    __rand__ = __and__

    def __repr__(self) -> str:
        name, arguments = self.expression.name, self.expression.arguments
        if name == "none_of":
            return f"~{_bracketed(arguments['selector'])}"
        if name in _JOINTS:
            return _JOINTS[name].join(map(_bracketed, arguments["selectors"]))
        return self.expression.line


_JOINTS = {"any_of": " | ", "all_of": " & "}


def _bracketed(selector: Any) -> str:
    joined = isinstance(selector, Selector) and selector.expression.name in _JOINTS
    return f"({selector!r})" if joined else repr(selector)


register_functions("selector", Selector)


def _selector(body: Callable[..., Choose]) -> Callable[..., Selector]:
    return decorate(body, "selector", result_type=Selector)


def as_selector(value: Any) -> Selector:
    """A selector unchanged, a string as a pattern of paths; TypeError for anything else."""
    if isinstance(value, str):
        return paths(value)
    if not isinstance(value, Selector):
        raise TypeError(f"a selector must be one like paths('**/bias'), or a pattern; got {describe(value)}")
    return value


@_selector
def paths(*patterns: str, required: bool = True) -> Choose:
    """Chooses parameters whose path matches a pattern: `paths("**/bias", "encoder/**")`.

    A path is written `encoder/0/kernel` for every kind of container, without the box in which flax keeps an
    array with its metadata, and without haiku's `~`. In a pattern `*`, `?` and `[abc]` match text within one
    name, and `**` matches any number of names, including none. (`gradflow.tree.paths` lists the paths of a
    tree; this function matches them.)

    >>> (~paths("**/bias"))({"dense": {"kernel": 1, "bias": 2}})
    {'dense': {'bias': False, 'kernel': True}}

    Args:
      *patterns: one or more.
      required: whether a pattern that matches no parameter is an error.

    Raises TypeError for a pattern that is not a string. Its result raises ValueError for one without match.
    """
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"paths: patterns must be strings, such as '**/bias'; got {describe(pattern)}")
    if not patterns:
        raise TypeError("paths: patterns must be given, as in paths('**/bias'); got none")
    globs = [tuple(name for name in pattern.split("/") if name) for pattern in patterns]

    def choose(parameters: Sequence[Parameter]) -> list[bool]:
        hits = [[_matches(glob, p.path) for p in parameters] for glob in globs]
        if required and parameters:
            for pattern, hit in zip(patterns, hits, strict=True):
                if not any(hit):
                    raise ValueError(_no_match(pattern, parameters))
        return [any(column) for column in zip(*hits, strict=True)]

    return choose


def _no_match(pattern: str, parameters: Sequence[Parameter]) -> str:
    known = ["/".join(p.path) for p in parameters]
    below = f"'{pattern.rstrip('/')}/**'"
    if any(path.startswith(pattern.rstrip("/") + "/") for path in known):
        return f"{stage_name()}: the pattern '{pattern}' matches no parameter, only a subtree. Use {below}"
    return f"{stage_name()}: the pattern '{pattern}' matches no parameter. {names_hint(pattern, known)}"


@functools.lru_cache(maxsize=100_000)
def _matches(glob: tuple[str, ...], path: tuple[str, ...]) -> bool:
    if not glob:
        return not path
    if glob[0] == "**":
        return any(_matches(glob[1:], path[i:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], glob[0]) and _matches(glob[1:], path[1:])


@_selector
def ndim(*allowed: int, at_least: int | None = None, at_most: int | None = None) -> Choose:
    """Chooses parameters by their number of axes: `ndim(2)`, `ndim(at_least=2)`."""
    _some_condition("ndim", allowed, at_least, at_most)
    return _each(lambda leaf: _within(len(leaf.shape), allowed, at_least, at_most))


@_selector
def size(*allowed: int, at_least: int | None = None, at_most: int | None = None) -> Choose:
    """Chooses parameters by their number of elements: `size(at_least=4096)`."""
    _some_condition("size", allowed, at_least, at_most)
    return _each(lambda leaf: _within(int(np.prod(leaf.shape)), allowed, at_least, at_most))


class _DtypeNames(Kind):
    """Dtypes and families of them, kept by name, so that a selector prints as what builds it again."""

    def __init__(self) -> None:
        super().__init__("dtypes or families of them", _all_named)

    def read(self, owner: str, name: str, value: Any) -> Any:
        """The names; raises TypeError for what is neither a dtype nor a family."""
        return tuple(_dtype_name(kind) for kind in value)


def _all_named(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_dtype_name, value))


def _dtype_name(kind: Any) -> str:
    family = DTYPE_FAMILIES.get(kind.__name__ if isinstance(kind, type) else str(kind))
    if family is not None and kind in (family, family.__name__):
        return family.__name__
    if isinstance(kind, str | np.dtype | type):
        try:
            found = jnp.dtype(kind)
        except TypeError:
            found = None
        if found is not None and not found.hasobject:
            return str(found.name)
    raise TypeError(
        f"dtype: arguments must be dtypes, as 'bfloat16', or families, as 'floating'; got {describe(kind)}"
    )


Dtypes = Annotated[Any, _DtypeNames()]


@_selector
def dtype(*allowed: Dtypes) -> Choose:
    """Chooses parameters by dtype: `dtype("bfloat16")`, or by family: `dtype(jnp.floating)`.

    Families are those of NumPy, as classes or by name: "inexact", "floating", "complexfloating", "integer",
    "signedinteger", "unsignedinteger", "number", "generic". They have jax's own types, such as bfloat16.
    """
    if not allowed:
        raise TypeError("dtype: dtypes must be given, as in dtype('bfloat16'); got none")
    kinds = [DTYPE_FAMILIES.get(name) or jnp.dtype(name) for name in allowed]
    return _each(lambda leaf: any(jnp.issubdtype(leaf.dtype, kind) for kind in kinds))


@_selector
def none_of(selector: Any) -> Choose:
    """Chooses what `selector` does not: `~selector`."""
    inner = as_selector(selector)
    return lambda parameters: [not c for c in inner.choose(parameters)]


@_selector
def any_of(*selectors: Any) -> Choose:
    """Chooses what at least one of the selectors chooses: `a | b`."""
    inner = [as_selector(s) for s in selectors]
    return lambda parameters: [any(s) for s in zip(*(i.choose(parameters) for i in inner), strict=True)]


@_selector
def all_of(*selectors: Any) -> Choose:
    """Chooses what all of the selectors choose: `a & b`."""
    inner = [as_selector(s) for s in selectors]
    return lambda parameters: [all(s) for s in zip(*(i.choose(parameters) for i in inner), strict=True)]


def _each(condition: Callable[[Any], bool]) -> Choose:
    return lambda parameters: [not is_absent(p.leaf) and condition(p.leaf) for p in parameters]


def _some_condition(name: str, allowed: tuple[int, ...], *bounds: int | None) -> None:
    given = [*allowed, *(bound for bound in bounds if bound is not None)]
    if not given:
        raise TypeError(f"{name}: a number must be given, as in {name}(2) or {name}(at_least=2); got none")
    for number in given:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(f"{name}: arguments must be whole numbers; got {describe(number)}")
        if number < 0:
            raise ValueError(f"{name}: arguments must be >= 0; got {number}")


def _within(number: int, allowed: tuple[int, ...], at_least: int | None, at_most: int | None) -> bool:
    bounded = at_least is not None or at_most is not None
    inside = (at_least is None or number >= at_least) and (at_most is None or number <= at_most)
    return number in allowed or (bounded and inside)

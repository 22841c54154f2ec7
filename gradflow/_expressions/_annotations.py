"""Annotations as readers see them: `Rate`, where the type is `Annotated[float | ..., Interval(...)]`."""

import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import jax

from gradflow._expressions import _arguments

_ARRAY = f"{jax.Array.__module__}.{jax.Array.__qualname__}"
_MODULES = re.compile(r"\b(?:typing|types|collections\.abc|gradflow(?:\.\w+)*)\.(?=\w)")


class PlainAnnotation:
    """An annotation that prints by its name in the source, and equals the type that it names.

    The name is looked up when it is first printed, so that decorating a factory stays cheap.
    """

    __slots__ = ("_name", "_namespace", "annotation")

    def __init__(self, annotation: Any, namespace: Mapping[str, Any], name: str | None = None) -> None:
        self.annotation = annotation
        self._namespace = namespace
        self._name = name

    @property
    def type(self) -> Any:
        """The annotation without the range of its kind: `ScalarOrSchedule` for a rate."""
        return _without_kinds(self.annotation)

    def __repr__(self) -> str:
        if self._name is None:
            self._name = _text(self.annotation, self._namespace)
            self._namespace = {}
        return self._name

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PlainAnnotation):
            is_same = self.annotation is other.annotation or self.type == other.type
            return is_same and repr(self) == repr(other)
        return bool(self.annotation == other or self.type == other)

    def __hash__(self) -> int:
        return hash(self.type)

    def __deepcopy__(self, memo: Any) -> "PlainAnnotation":
        return self

    def __reduce__(self) -> Any:
        return _from_parts, (_to_parts(self.annotation), repr(self))


def plain_annotations(body: Callable[..., Any], result: Any = None) -> dict[str, Any]:
    """The annotations of a function, each printing by its name; `result` is what its calls return."""
    namespace = body.__globals__
    annotations = dict(body.__annotations__)
    if result is not None:
        annotations["return"] = result
    return {
        name: annotation if _prints_well(annotation) else PlainAnnotation(annotation, namespace)
        for name, annotation in annotations.items()
    }


def _prints_well(annotation: Any) -> bool:
    if isinstance(annotation, type):
        return not isinstance(annotation, types.GenericAlias) and not annotation.__module__.startswith(
            "gradflow."
        )
    return annotation is None or annotation is Any or isinstance(annotation, str)


def _without_kinds(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    if _is_union(annotation):
        return Union[tuple(_without_kinds(option) for option in get_args(annotation))]  # noqa: UP007
    return annotation


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _text(annotation: Any, namespace: Mapping[str, Any]) -> str:
    """An annotation as its source spells it: by a name where it has one, else part by part."""
    if annotation is types.NoneType or annotation is None:
        return "None"
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        is_near = annotation.__module__.split(".")[0] in ("builtins", "gradflow")
        return annotation.__qualname__ if is_near else f"{annotation.__module__}.{annotation.__qualname__}"
    name = _name_of(annotation, namespace) or _name_of(annotation, vars(_arguments))
    if name:
        return name
    if get_origin(annotation) is Annotated:
        return _text(get_args(annotation)[0], namespace)
    if _is_union(annotation):
        options = [option for option in get_args(annotation) if option is not types.NoneType]
        if len(options) < len(get_args(annotation)):
            return f"{_text(Union[tuple(options)], namespace)} | None"  # noqa: UP007
        return " | ".join(_text(option, namespace) for option in options)
    return _MODULES.sub("", repr(annotation).replace(_ARRAY, "jax.Array"))


def _name_of(annotation: Any, namespace: Mapping[str, Any]) -> str | None:
    """The public name under which a namespace holds an alias of types."""
    for name, value in namespace.items():
        is_alias = not name.startswith("_") and typing.get_origin(value) is not None
        if is_alias and (value is annotation or value == annotation):
            return name
    return None


def _to_parts(annotation: Any) -> Any:
    """An annotation as what pickles: `jax.Array` has a metaclass under whose name pickle does not find it."""
    if annotation is jax.Array:
        return "array", None
    if isinstance(annotation, list):  # the arguments of a Callable
        return "list", [_to_parts(part) for part in annotation]
    origin = get_origin(annotation)
    if origin is None:
        return "whole", annotation
    if origin is Annotated:
        return "kind", (_to_parts(get_args(annotation)[0]), *get_args(annotation)[1:])
    return "generic", (
        Union if _is_union(annotation) else origin,
        [_to_parts(p) for p in get_args(annotation)],
    )


def _read_parts(parts: Any) -> Any:
    form, content = parts
    if form == "array":
        return jax.Array
    if form == "list":
        return [_read_parts(part) for part in content]
    if form == "kind":
        return Annotated[(_read_parts(content[0]), *content[1:])]
    if form == "generic":
        return content[0][tuple(_read_parts(part) for part in content[1])]
    return content


def _from_parts(parts: Any, name: str) -> PlainAnnotation:
    return PlainAnnotation(_read_parts(parts), {}, name)

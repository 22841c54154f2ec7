"""Finding and replacing parts of a nested state by name. In this file `set` is not the builtin."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from gradflow._checked import FUNCTION, checked
from gradflow._errors import names_hint
from gradflow.tree._paths import KeyPath, children, path_string

Filtering = Callable[[KeyPath, Any], bool] | None


@dataclasses.dataclass(frozen=True)
class NamedTupleKey:
    """The key of a NamedTuple's field, with the class name that `jax`'s keys do not have."""

    tuple_name: str
    name: str

    def __str__(self) -> str:
        return f"{self.tuple_name}.{self.name}"


@checked(filtering=FUNCTION | None)
def get_all_with_path(tree: Any, key: Any, filtering: Filtering = None) -> list[tuple[KeyPath, Any]]:
    """Every (key path, value) in the tree whose name is `key`.

    A name is a dict key, an attribute, a field of a NamedTuple, or the class name of a NamedTuple. The
    outermost nodes that have it come first, in the order of the tree; then what is inside them, likewise.

    Args:
      tree: any pytree, such as an optimizer's state.
      key: the name.
      filtering: keeps the values for which `filtering(path, value)` is true. The keys of a path are those of
        `jax.tree_util`, and `NamedTupleKey`.
    """
    found = _outermost_first(tree, (), key)
    return [(p, v) for p, v in found if filtering is None or filtering(p, v)]


@checked(filtering=FUNCTION | None)
def get(tree: Any, key: Any, default: Any = None, filtering: Filtering = None) -> Any:
    """The value in the tree with the name `key`, or `default` if there is none.

    A rule's own `count` comes before the counts that only drive a rate or another scheduled number.

    Raises KeyError with their paths if there are several. See `get_all_with_path`.
    """
    found = get_all_with_path(tree, key, filtering)
    if len(found) > 1:
        found = [(path, value) for path, value in found if not _drives_a_number(path)] or found
    if len(found) > 1:
        where = ", ".join(repr(_with_tuple_names(path)) for path, _ in found)
        raise KeyError(f"tree: {key!r} is ambiguous: found at {where}. Choose one with filtering")
    return found[0][1] if found else default


# States of which `count` is evaluated by a schedule alone.
_SCHEDULE_STATES = ("ScaleByScheduleState", "ScheduledState")


def _drives_a_number(path: KeyPath) -> bool:
    last = path[-1] if path else None
    return isinstance(last, NamedTupleKey) and last.name == "count" and last.tuple_name in _SCHEDULE_STATES


@checked(filtering=FUNCTION | None)
def set(tree: Any, filtering: Filtering = None, /, **kwargs: Any) -> Any:
    """A copy of the tree in which every value with one of the names in `kwargs` is replaced.

    Raises KeyError with similar names if a name does not occur. See `get_all_with_path`.
    """
    for key in kwargs:
        if not get_all_with_path(tree, key, filtering):
            if get_all_with_path(tree, key):
                raise KeyError(f"tree: filtering excludes every value named {key!r}")
            known = [str(name) for _, _, names in _walk(tree, ()) for name in names]
            raise KeyError(f"tree: no value is named {key!r}. {names_hint(key, known)}")
    return _replace(tree, (), (), kwargs, filtering)


def _outermost_first(node: Any, path: KeyPath, key: Any) -> Iterator[tuple[KeyPath, Any]]:
    holders = list(_holders(node, path, key))
    for path, holder in holders:
        if key in _own_name(holder):
            yield path, holder
        yield from (((*path, k), child) for k, child in _children(holder)[0] if key in _name_of(k))
    for path, holder in holders:
        for k, child in _children(holder)[0]:
            yield from _outermost_first(child, (*path, k), key)


def _holders(node: Any, path: KeyPath, key: Any) -> Iterator[tuple[KeyPath, Any]]:
    """The outermost nodes that have the name, or a child of that name."""
    pairs = _children(node)[0]
    if key in _own_name(node) or any(key in _name_of(k) for k, _ in pairs):
        yield path, node
    else:
        for k, child in pairs:
            yield from _holders(child, (*path, k), key)


def _walk(
    node: Any, path: KeyPath, names: tuple[Any, ...] = ()
) -> Iterator[tuple[KeyPath, Any, tuple[Any, ...]]]:
    """Every node of the tree with its path and its names, parents first."""
    names = (*names, *_own_name(node))
    if names:
        yield path, node, names
    for key, child in _children(node)[0]:
        yield from _walk(child, (*path, key), _name_of(key))


def _replace(
    node: Any, path: KeyPath, names: tuple[Any, ...], new: dict[str, Any], filtering: Filtering
) -> Any:
    for name in (*names, *_own_name(node)):
        if isinstance(name, str) and name in new and (filtering is None or filtering(path, node)):
            return new[name]
    pairs, treedef = _children(node)
    parts = [_replace(x, (*path, key), _name_of(key), new, filtering) for key, x in pairs]
    if all(part is x for part, (_, x) in zip(parts, pairs, strict=True)):
        return node
    return treedef.unflatten(parts)


def _own_name(node: Any) -> tuple[str, ...]:
    return (type(node).__name__,) if _is_named_tuple(node) else ()


def _name_of(key: Any) -> tuple[Any, ...]:
    """The names of a child; a position in a list is not a name."""
    if hasattr(key, "idx"):
        return ()
    return (key.name,) if hasattr(key, "name") else (getattr(key, "key", None),)


def _children(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
    pairs, treedef = children(node)
    # The children of a transformation, also a named tuple, are its arrays: they have no fields' names.
    fields = [getattr(key, "name", None) for key, _ in pairs]
    if _is_named_tuple(node) and fields == list(node._fields):
        name = type(node).__name__
        keys = [NamedTupleKey(name, field) for field in node._fields]
        pairs = [(key, child) for key, (_, child) in zip(keys, pairs, strict=True)]
    return pairs, treedef


def _is_named_tuple(node: Any) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _with_tuple_names(path: KeyPath) -> str:
    return "/".join(str(k) if isinstance(k, NamedTupleKey) else path_string((k,)) for k in path)

"""Paths of leaves, such as `encoder/0/kernel`, in one form for every kind of container."""

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import jax
from jax import tree_util

from gradflow._checked import FUNCTION, TEXT, checked
from gradflow._errors import names_hint

KeyPath = tuple[Any, ...]
_LEAF: Any = jax.tree.structure(0)


def is_none(x: Any) -> bool:
    """Whether `x` is an absent leaf."""
    return x is None


def segment(key: Any) -> str:
    """One key of a key path as plain text, without brackets, quotes or dots."""
    for field in ("key", "idx", "name"):  # dicts and flattened indices, sequences, attributes
        if hasattr(key, field):
            return str(getattr(key, field))
    return str(key).strip("[]'\".")


def path_string(path: Iterable[Any]) -> str:
    """A key path of `jax.tree_util` as segments joined by "/"; the root is the empty string."""
    return "/".join(segment(key) for key in path)


def show(path: str) -> str:
    """A path as quoted in error messages."""
    return repr(path) if path else "the root"


def children(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
    """The (key, child) pairs one level below `node`, and the treedef that puts them back."""
    pairs, treedef = tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if treedef == _LEAF:
        return [], treedef
    return [(path[0], child) for path, child in pairs], treedef


def is_container(node: Any) -> bool:
    """Whether `node` is neither a leaf nor None."""
    return node is not None and not tree_util.all_leaves([node])


@checked(f=FUNCTION, is_leaf=FUNCTION | None)
def map_with_path(
    f: Callable[..., Any],
    tree: Any,
    *rest: Any,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Maps `f(path, leaf, *rest_leaves)` over a tree; `path` is a string such as "encoder/0/kernel".

    None leaves stay None, without a call of `f`.
    """
    return tree_util.tree_map_with_path(
        lambda path, *leaves: f(path_string(path), *leaves), tree, *rest, is_leaf=is_leaf
    )


def paths(tree: Any) -> list[str]:
    """The path of every leaf, in the order of `jax.tree.leaves`; None leaves have none.

    These are the paths that the selector `gradflow.paths` matches against its patterns.

    >>> paths({"encoder": [1.0, None, 2.0]})
    ['encoder/0', 'encoder/2']
    """
    return [path_string(path) for path, _ in tree_util.tree_leaves_with_path(tree)]


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, None ones included."""
    pairs, _ = tree_util.tree_flatten_with_path(tree, is_leaf=is_none)
    return {path_string(path): leaf for path, leaf in pairs}


@checked(path=TEXT)
def get_by_path(tree: Any, path: str) -> Any:
    """The leaf or subtree at `path`.

    Raises KeyError unless exactly one node has this path; the error lists similar paths.
    """
    return _locate(tree, path)[1]


@checked(path=TEXT)
def set_by_path(tree: Any, path: str, value: Any) -> Any:
    """A copy of `tree` whose leaf or subtree at `path` is `value`.

    Raises KeyError unless exactly one node has this path; the error lists similar paths.
    """
    indices, _ = _locate(tree, path)
    return _replace(tree, indices, value)


def longest_prefix(path: tuple[Any, ...], known: Container[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """The longest known prefix of a path, the path itself included; None if there is none."""
    return next((path[:n] for n in range(len(path), -1, -1) if path[:n] in known), None)


def _locate(tree: Any, path: str) -> tuple[tuple[int, ...], Any]:
    # A dict key may contain "/", so a path can have several divisions into segments.
    found = list(_search(tree, path))
    if not found:
        known = [path_string(p) for p, _ in _nodes(tree, ())]
        raise KeyError(f"tree: no leaf or subtree at path {show(path)}. {names_hint(path, known)}")
    if len(found) > 1:
        raise KeyError(
            f"tree: path {show(path)} is ambiguous: {len(found)} nodes have it, "
            'because some keys contain "/" or differ only in type'
        )
    return found[0]


def _search(node: Any, path: str) -> Iterator[tuple[tuple[int, ...], Any]]:
    if not path:
        yield (), node
        return
    for i, (key, child) in enumerate(children(node)[0]):
        name = segment(key)
        if path == name:
            yield (i,), child
        elif path.startswith(name + "/"):
            for indices, found in _search(child, path[len(name) + 1 :]):
                yield (i, *indices), found


def _nodes(node: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    for key, child in children(node)[0]:
        yield (*path, key), child
        yield from _nodes(child, (*path, key))


def _replace(node: Any, indices: tuple[int, ...], value: Any) -> Any:
    if not indices:
        return value
    pairs, treedef = children(node)
    parts = [child for _, child in pairs]
    parts[indices[0]] = _replace(parts[indices[0]], indices[1:], value)
    return treedef.unflatten(parts)

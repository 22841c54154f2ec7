"""Mapped axes: where a leaf is only one device's piece of the whole, and norms over all pieces.

A leaf is a piece where its type says so (`shard_map` with `check_vma`), or where `axis_name` says so.
"""

from typing import Any

import jax

from gradflow import tree
from gradflow._calls._context import stage_name
from gradflow._errors import describe
from gradflow.tree._norm import norm_beside, scaled_root
from gradflow.tree._reductions import AxisName as AxisName


def check_axis_name(owner: str, axis_name: Any) -> None:
    """Raises TypeError unless `axis_name` is None, a name or a tuple of names."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if axis_name is not None and not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"{owner}: argument 'axis_name' must be None, the name of a mesh axis or a tuple of names; "
            f"got {describe(axis_name)}"
        )


def sum_axes(axis_name: AxisName, *trees: Any) -> tuple[str, ...]:
    """The axes over which a stage's sums run; `()` outside of `shard_map`.

    Raises ValueError if `axis_name` is None and the leaves are pieces, because a local sum would be wrong.
    Raises ValueError also for an axis that does not exist in this call.
    """
    if axis_name is None:
        varying = varying_axes(*trees)
        if varying:
            raise ValueError(
                f"{stage_name()}: inside shard_map argument 'axis_name' must be given, because the updates "
                f"differ along {_quoted(varying)}. Pass axis_name={_spelled(varying)} to sum over all "
                "devices, or axis_name=() if every device holds the same updates"
            )
        return ()
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    for name in names:
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise ValueError(
                f"{stage_name()}: argument 'axis_name' must name axes of an enclosing shard_map or vmap; "
                f"got {describe(name)}"
            ) from None
    return names


def refuse_varying(what: str, *trees: Any) -> None:
    """Raises ValueError inside `shard_map`, where the stage's sums would be local to one device."""
    varying = varying_axes(*trees)
    if varying:
        raise ValueError(
            f"{stage_name()}: inside shard_map the updates differ along {_quoted(varying)}, so {what} on one "
            "device would be wrong. Call this stage outside of shard_map, under jit"
        )


def varying_axes(*trees: Any) -> tuple[str, ...]:
    """The manual axes along which leaves differ, as far as their types say.

    Under `pmap` and `shard_map(check_vma=False)` types say nothing, and arrays count as whole. That is what
    they are after `pmean` of the gradients, as in data-parallel training.
    """
    manual = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    leaves = jax.tree.leaves(trees)
    if not manual or not leaves or not _is_tracked(manual):
        return ()
    varying = set().union(*(_varying(leaf) for leaf in leaves))
    return tuple(name for name in manual if name in varying)


def axes_of(leaf: jax.Array, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `axes` along which this leaf is one piece, so that a replicated leaf counts once."""
    manual = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    if not axes or not manual or not _is_tracked(manual):
        return axes
    varying = _varying(leaf)
    return tuple(name for name in axes if name not in manual or name in varying)


def leaves_by_axes(updates: Any, axes: tuple[str, ...]) -> dict[tuple[str, ...], list[jax.Array]]:
    """The leaves of a tree, grouped by their `axes_of`."""
    groups: dict[tuple[str, ...], list[jax.Array]] = {}
    for leaf in jax.tree.leaves(updates):
        groups.setdefault(axes_of(leaf, axes), []).append(leaf)
    return groups


def global_norm(updates: Any, axes: tuple[str, ...], *, beside: bool = False) -> jax.Array:
    """The 2-norm of a tree whose leaves are pieces along `axes`, as `sum_axes` returns them.

    `beside` as in `banded_square_sums`.
    """
    groups = leaves_by_axes(updates, axes).items()
    if beside:
        parts = [norm_beside(leaves, names) for names, leaves in groups]
    else:
        parts = [tree.norm(leaves, axis_name=names) for names, leaves in groups]
    return parts[0] if len(parts) == 1 else tree.norm(parts)


def global_scaled_root(
    updates: Any, axes: tuple[str, ...], beside: bool = False
) -> tuple[jax.Array, jax.Array]:
    """`(root, factor)`: `global_norm` is their product, and `factor` is a power of two."""
    groups = leaves_by_axes(updates, axes) or {(): []}
    return scaled_root(list(groups.values()), tuple(groups), beside)


def global_size(leaf: jax.Array, axes: tuple[str, ...]) -> int:
    """The number of elements of the whole array of which `leaf` is one piece."""
    size = leaf.size
    for name in axes_of(leaf, axes):
        size *= jax.lax.axis_size(name)
    return size


def _is_tracked(manual: tuple[str, ...]) -> bool:
    """Whether types record along which axes a value varies; the index of an axis always varies."""
    return bool(_varying(jax.lax.axis_index(manual[0])))


def _varying(leaf: Any) -> frozenset[str]:
    kind: Any = jax.typeof(leaf)
    # Before jax 0.9 the attribute was `vma`.
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def _quoted(names: tuple[str, ...]) -> str:
    return ("axis " if len(names) == 1 else "axes ") + ", ".join(map(repr, names))


def _spelled(names: tuple[str, ...]) -> str:
    return repr(names[0] if len(names) == 1 else names)

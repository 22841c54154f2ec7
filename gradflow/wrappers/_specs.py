"""Where parameters lie, as users say it: `PartitionSpec`s by path, and what they say of each leaf."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gradflow._calls._context import stage_name
from gradflow._errors import describe
from gradflow._shardings import mesh_sides
from gradflow._types import is_absent
from gradflow.matrices._spread import Names, spec_names
from gradflow.tree._paths import longest_prefix, segment, show

Path = tuple[str, ...]


def check_mesh(owner: str, mesh: Any) -> None:
    """Raises TypeError unless `mesh` is a mesh or None."""
    if mesh is not None and not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"{owner}: argument 'mesh' must be a jax.sharding.Mesh or None; got {describe(mesh)}")


def read_specs(owner: str, specs: Any) -> dict[Path, PartitionSpec]:
    """The specs by path. Raises TypeError for another leaf."""
    kinds = (PartitionSpec, NamedSharding)
    flat, _ = jax.tree_util.tree_flatten_with_path(
        specs, is_leaf=lambda x: x is None or isinstance(x, kinds) or is_absent(x)
    )
    found: dict[Path, PartitionSpec] = {}
    for keys, spec in flat:
        path = tuple(map(segment, keys))
        if is_absent(spec):
            continue
        if not isinstance(spec, kinds):
            raise TypeError(
                f"{owner}: argument 'specs' must be a tree of PartitionSpec or NamedSharding; got "
                f"{describe(spec)} at {show('/'.join(path))}"
            )
        found[path] = spec.spec if isinstance(spec, NamedSharding) else spec
    return found


def check_axes(owner: str, mesh: Any, specs: Mapping[Path, PartitionSpec] | None, **arguments: Names) -> None:
    """Raises ValueError for the first axis that the mesh does not have, in specs or in other arguments."""
    asked = [(f"argument '{name}'", names) for name, names in arguments.items()]
    for path, spec in (specs or {}).items():
        named = tuple(name for each in spec_names(spec, len(spec)) for name in each)
        asked.append((f"argument 'specs' at {show('/'.join(path))}", named))
    for where, names in asked:
        for name in names:
            if name not in mesh.axis_names:
                raise ValueError(
                    f"{owner}: {where} must name axes of the mesh, {', '.join(map(repr, mesh.axis_names))}; "
                    f"got {describe(name)}"
                )


def check_same_mesh(mesh: Any, leaves: Mapping[Path, Any]) -> None:
    """Raises ValueError naming the first leaf that is on another mesh, as its array or its type says."""
    for path, leaf in leaves.items():
        sharding = concrete_sharding(leaf)
        there: Any = (sharding or jax.typeof(leaf).sharding).mesh
        if not there.empty and dict(there.shape) != dict(mesh.shape):
            raise ValueError(
                f"{stage_name()}: argument 'mesh' must be the mesh of all parameters; got "
                f"{mesh_sides(mesh)}, and the leaf at {show('/'.join(path))} on {mesh_sides(there)}"
            )


def concrete_sharding(leaf: Any) -> NamedSharding | None:
    """The sharding of an array that is not traced, on a mesh."""
    is_concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return leaf.sharding if is_concrete and isinstance(leaf.sharding, NamedSharding) else None


def leaves_by_path(tree: Any) -> dict[Path, Any]:
    """The leaves of a tree by the names on the way to them."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {tuple(map(segment, keys)): leaf for keys, leaf in flat}


def cuts_by_path(
    mesh: Any, specs: Mapping[Path, PartitionSpec], updates: Any
) -> dict[Path, tuple[Names, ...]]:
    """The axes that cut each leaf. Raises ValueError naming a leaf that has no spec, or a wrong one."""
    found: dict[Path, tuple[Names, ...]] = {}
    for path, leaf in leaves_by_path(updates).items():
        prefix = longest_prefix(path, specs)
        at = show("/".join(path))
        if prefix is None:
            raise ValueError(
                f"{stage_name()}: argument 'specs' must cover every parameter; got none for the one at {at}"
            )
        spec = specs[prefix]
        if len(spec) > leaf.ndim:
            raise ValueError(
                f"{stage_name()}: argument 'specs' must have at most {leaf.ndim} axes for the leaf at {at} "
                f"of shape {leaf.shape}; got {spec}"
            )
        found[path] = spec_names(spec, leaf.ndim)
        for axis, names in enumerate(found[path]):
            size = math.prod(mesh.shape[name] for name in names)
            if leaf.shape[axis] % size:
                raise ValueError(
                    f"{stage_name()}: the leaf at {at} of shape {leaf.shape} must be divisible along axis "
                    f"{axis} by the {size} devices of {', '.join(map(repr, names))}"
                )
    return found

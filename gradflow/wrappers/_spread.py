"""Distributed Muon, and any rule on matrices: each device orthogonalizes its share of them."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from gradflow._calls._context import stage_name
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._types import OptState, Pair, Params, Updates, is_absent
from gradflow.matrices._spread import Names, Spreading, spec_names, spreading
from gradflow.tree._paths import longest_prefix, segment, show

Path = tuple[str, ...]


@transformation
def spread(
    inner: GradientTransformation, mesh: Any = None, specs: Any = None, *, share: tuple[str, ...] = ()
) -> Pair:
    """Shares out the matrices of `inner` over a mesh: two all-to-alls per group in the place of gathers.

        spread(muon(0.02), mesh, jax.tree.map(lambda p: p.sharding.spec, params))

    Parameters that are cut along axes of the mesh have their matrices in pieces. Matrices of one shape and
    sharding are stacked; each device gets whole ones of its own, and the results go back to where the pieces
    were. That moves 2 / N of their bytes. A number of matrices that N does not divide is padded with zeros.

    It acts on rules whose state has the shapes of the leaves or none: `muon` and `orthogonalize`. On a
    mesh with explicit axes they do so by themselves, since types have the shardings.

    Args:
      inner: any transformation with such a rule inside.
      mesh: the mesh of the parameters; by default that of `jax.set_mesh`. Without any, nothing changes.
      specs: a tree like the parameters, or a prefix of one, of `PartitionSpec` or `NamedSharding`. None
        leaves the exchange to the partitioner, which finds as little on one axis, and gathers on two.
      share: axes along which parameters are copies and which share the work too, for an all-gather of the
        results. By default copies are computed on each device.

    Raises ValueError for axes that the mesh does not have, and for a leaf that an axis does not divide.
    Source: Jordan et al. 2024 and Liu et al. 2025, arXiv:2502.16982, for other ways to distribute Muon.
    """
    names = (share,) if isinstance(share, str) else tuple(share)
    if mesh is not None and not isinstance(mesh, Mesh | AbstractMesh):
        raise TypeError(f"spread: argument 'mesh' must be a jax.sharding.Mesh or None; got {describe(mesh)}")
    given = None if specs is None else _read(specs)
    if mesh is not None:
        _check_names(mesh, given, names)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        here: Any = jax.sharding.get_abstract_mesh() if mesh is None else mesh
        if here.empty or here.size == 1:
            return inner.update(updates, state, params, **extra)
        if mesh is None:
            _check_names(here, given, names)
        cuts = None if given is None else _cuts(here, given, updates)
        with spreading(Spreading(here, cuts, names)):
            return inner.update(updates, state, params, **extra)

    return inner.init, update


def _read(specs: Any) -> dict[Path, PartitionSpec]:
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
                f"spread: argument 'specs' must be a tree of PartitionSpec or NamedSharding; got "
                f"{describe(spec)} at {show('/'.join(path))}"
            )
        found[path] = spec.spec if isinstance(spec, NamedSharding) else spec
    return found


def _check_names(mesh: Any, given: Mapping[Path, PartitionSpec] | None, share: Names) -> None:
    """Raises ValueError for the first axis that the mesh does not have."""
    asked = [("argument 'share'", share)]
    for path, spec in (given or {}).items():
        named = tuple(name for each in spec_names(spec, len(spec)) for name in each)
        asked.append((f"argument 'specs' at {show('/'.join(path))}", named))
    for where, names in asked:
        for name in names:
            if name not in mesh.axis_names:
                raise ValueError(
                    f"spread: {where} must name axes of the mesh, {', '.join(map(repr, mesh.axis_names))}; "
                    f"got {describe(name)}"
                )


def _cuts(mesh: Any, given: Mapping[Path, PartitionSpec], updates: Updates) -> dict[Path, tuple[Names, ...]]:
    """The axes that cut each leaf. Raises ValueError naming a leaf that has no spec, or a wrong one."""
    found: dict[Path, tuple[Names, ...]] = {}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(updates)[0]:
        path = tuple(map(segment, keys))
        prefix = longest_prefix(path, given)
        at = show("/".join(path))
        if prefix is None:
            raise ValueError(
                f"{stage_name()}: argument 'specs' must cover every parameter; got none for the one at {at}"
            )
        spec = given[prefix]
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

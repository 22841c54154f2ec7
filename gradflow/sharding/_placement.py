"""Where the state of an optimizer lies, from where its parameters lie."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradflow._checked import ARRAYS, checked
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._errors import describe
from gradflow._shardings import mesh_sides
from gradflow._types import Params
from gradflow.tree._paths import path_string, show


@checked(params=ARRAYS)
def state_sharding(tx: GradientTransformation, params: Params) -> Any:
    """The shardings of `tx.init(params)`, for `out_shardings` and for restoring a checkpoint.

        shardings = state_sharding(tx, params)
        step = jax.jit(step, out_shardings=(param_shardings, shardings))

    `init` is compiled and not run, which takes about 0.1 s.

    Args:
      tx: any transformation.
      params: arrays on a mesh, or `jax.ShapeDtypeStruct`s with `sharding`.

    Returns a tree like the state. Raises ValueError if leaves are on two meshes, or if some of them have a
    sharding and others do not.
    """
    tx = as_transformation(tx, "state_sharding", "the first argument")
    return compiled_state_sharding(tx, params, mesh_of("state_sharding", params))


def compiled_state_sharding(tx: GradientTransformation, params: Params, mesh: Mesh | None) -> Any:
    """`state_sharding` of parameters that were checked."""
    found = jax.jit(tx.init).lower(abstract(params)).compile().output_shardings
    if mesh is None:
        return found
    # A constant, such as the count of another library, is on no mesh: the first step replicates it.
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda s: s if isinstance(s, NamedSharding) else whole, found)


def placed_state(tx: GradientTransformation, params: Params, mesh: Mesh) -> Any:
    """The shapes of a state, with its shardings."""
    shapes = jax.eval_shape(tx.init, abstract(params))
    return with_shardings(shapes, compiled_state_sharding(tx, params, mesh))


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shapes and dtypes with the shardings of another tree."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def abstract(params: Params) -> Any:
    """Shapes, dtypes and shardings of a tree."""

    def one(p: Any) -> Any:
        known = hasattr(p, "shape")
        return jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=sharding_of(p)) if known else p

    return jax.tree.map(one, params)


def sharding_of(leaf: Any) -> Any:
    """The sharding of a leaf where it has one on a mesh."""
    found = getattr(leaf, "sharding", None)
    return found if isinstance(found, NamedSharding) else None


def mesh_of(owner: str, params: Params) -> Mesh | None:
    """The one mesh that all leaves are on; None if none of them is on a mesh.

    Raises ValueError naming the first leaf that is on another mesh, or on none.
    """
    meshes: dict[str, Any] = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        found = sharding_of(leaf)
        meshes[show(path_string(keys))] = found.mesh if found is not None else None
    if not meshes or all(mesh is None for mesh in meshes.values()):
        return None
    first, mesh = next((path, mesh) for path, mesh in meshes.items() if mesh is not None)
    for path, other in meshes.items():
        if other is None:
            raise ValueError(
                f"{owner}: argument 'params' must have all leaves on one mesh; the leaf at {first} is on "
                f"{shown(mesh)} and the leaf at {path} has no sharding on a mesh. Replicate it: "
                "jax.device_put(leaf, NamedSharding(mesh, PartitionSpec()))"
            )
        if other != mesh:
            raise ValueError(
                f"{owner}: argument 'params' must have all leaves on one mesh; the leaf at {first} is on "
                f"{shown(mesh)} and the leaf at {path} on {shown(other)}"
                + (", with other devices or axis types" if shown(mesh) == shown(other) else "")
            )
    return mesh


def require_mesh(owner: str, params: Params) -> Mesh:
    """The mesh of the leaves. Raises ValueError if they are on none."""
    mesh = mesh_of(owner, params)
    if mesh is None:
        leaves = jax.tree.leaves(params)
        got = describe(leaves[0]) if leaves else "an empty tree"
        raise ValueError(
            f"{owner}: argument 'params' must be on a mesh; got {got} without a NamedSharding. Place it with "
            "jax.device_put, or give jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))"
        )
    return mesh


def shown(mesh: Any) -> str:
    """A mesh in words, such as `the mesh data=4, model=2`."""
    return f"the mesh {mesh_sides(mesh)}"

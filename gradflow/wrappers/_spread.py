"""Distributed Muon, SOAP and kin: each device computes its share of the matrices."""

from typing import Any

import jax

from gradflow._calls._context import context
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._types import OptState, Pair, Params, Updates
from gradflow.matrices._spread import Spreading, spreading
from gradflow.wrappers._specs import (
    check_axes,
    check_mesh,
    check_same_mesh,
    cuts_by_path,
    leaves_by_path,
    read_specs,
)


@transformation
def spread(
    inner: GradientTransformation, mesh: Any = None, specs: Any = None, *, share: tuple[str, ...] = ()
) -> Pair:
    """Shares out the matrices of `inner` over a mesh: two all-to-alls per group in the place of gathers.

        spread(muon(0.02), mesh, jax.tree.map(lambda p: p.sharding.spec, params))

    Parameters that are cut along axes of the mesh have their matrices in pieces. Matrices of one shape and
    sharding are stacked; each device gets whole ones of its own, and the results go back to where the pieces
    were. That moves 2 / N of their bytes. Where N does not divide their number, some are computed twice.

    Factors, as `soap`, `shampoo` and `kron` have them, go with their matrices. Each device keeps 1 / N of
    those whose side N divides, and all of the others. Each rule that needs whole matrices takes two
    all-to-alls: `soap` has one, the other two have two, and one more in the branch that refreshes factors. A
    matrix that is split into blocks and has factors is gathered. On a mesh with explicit axes no wrapper is
    needed. Around it `offload_state` saves no memory within a step, which needs all matrices at once.

    Args:
      inner: any transformation with such a rule inside.
      mesh: the mesh of the parameters; by default that of `jax.set_mesh`. Without any, nothing changes.
      specs: a tree like the parameters, or a prefix of one, of `PartitionSpec` or `NamedSharding`. None
        leaves the exchange to the partitioner, which finds as little on one axis, and gathers on two.
        Inside of `shard_state` mesh and specs are those of its shards.
      share: axes along which parameters are copies and which share the work too, for an all-gather of the
        results. By default copies are computed on each device.

    Raises ValueError for axes that the mesh does not have, for parameters on another mesh, and for a leaf
    that an axis does not divide.
    Source: Jordan et al. 2024 and Liu et al. 2025, arXiv:2502.16982, for other ways to distribute Muon.

    >>> import gradflow as gf
    >>> print(gf.spread(gf.muon(0.02)))
    spread(muon(0.02))
    """
    names = (share,) if isinstance(share, str) else tuple(share)
    check_mesh("spread", mesh)
    given = None if specs is None else read_specs("spread", specs)
    if mesh is not None:
        check_axes("spread", mesh, given, share=names)

    def placed(tree: Any) -> Spreading | None:
        shards = context.shards
        here: Any = mesh if mesh is not None else shards.mesh if shards else jax.sharding.get_abstract_mesh()
        if here.empty or here.size == 1:
            return None
        if mesh is None:
            check_axes("spread", here, given, share=names)
        check_same_mesh(here, leaves_by_path(tree))
        cuts = None if given is None else cuts_by_path(here, given, tree)
        if shards is not None:
            cuts = {**(cuts or {}), **shards.cuts}
        return Spreading(here, cuts, names)

    def init(params: Params) -> OptState:
        found = placed(params)
        if found is None:
            return inner.init(params)
        with spreading(found):
            return inner.init(params)

    def update(
        updates: Updates, state: OptState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, OptState]:
        found = placed(updates)
        if found is None:
            return inner.update(updates, state, params, **extra)
        with spreading(found):
            return inner.update(updates, state, params, **extra)

    return init, update

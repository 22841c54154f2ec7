"""Findings about the sets that steps end in."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from gradflow import tree
from gradflow._core._transformation import GradientTransformation, stages_of
from gradflow._dtypes import is_inexact
from gradflow._inspection._findings import Finding
from gradflow._types import Params
from gradflow.packed._pack import unpack_all
from gradflow.tree._paths import leaves_by_path, show

# A projection that iterates ends with an error, and one in bfloat16 rounds.
_SLACK = 16.0


def projection_findings(tx: GradientTransformation, params: Params) -> Iterator[Finding]:
    """Projections that move what they returned: a point of the set must stay where it is."""
    for stage in stages_of(tx):
        if stage.expression.name != "projected":
            continue
        projection = stage.expression.arguments["projection"]
        try:
            inside = projection(unpack_all(params))
            again = projection(inside)
            moved = _largest_move(inside, again)
        except (TypeError, ValueError):
            continue  # it fits another part of the parameters; a wrong one fails in the trial steps
        if moved is not None:
            path, by = moved
            yield Finding(
                "projected",
                f"projection moves a point of its own set, by {by:.2g} at {show(path)}",
                "Check its formula: applied twice, a projection returns what it returned",
            )


def _largest_move(inside: Any, again: Any) -> tuple[str, float] | None:
    """The leaf that moved by more than rounding, and by how much."""
    scale = float(tree.max(jax.tree.map(abs, inside))) if jax.tree.leaves(inside) else 0.0
    others = leaves_by_path(again)
    for path, leaf in leaves_by_path(inside).items():
        if leaf is None or not is_inexact(leaf.dtype):
            continue
        by = float(np.max(np.abs(np.asarray(leaf - others[path])), initial=0.0))
        if not by <= _SLACK * float(jax.numpy.finfo(leaf.dtype).eps) ** 0.5 * max(scale, 1e-30):
            return path, by
    return None

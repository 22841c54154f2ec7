"""Errors for sizes that a program is exported without, where a stage decides by them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gradflow.tree._paths import path_string, show


def refuse_symbolic_sizes(stage: str, arguments: Mapping[str, Any], error: Exception) -> None:
    """Raises ValueError naming the leaf and its sizes where `error` is jax's about one without a number."""
    # By its name: the class moved from `jax.core` to `jax.errors` between the versions that are supported.
    if type(error).__name__ != "InconclusiveDimensionOperation":
        return
    asked = re.findall(r"'([^']+)'", str(error))
    found = list(_symbolic(arguments))
    # The leaf with a size that the comparison asked for, else the first one.
    chosen = [entry for entry in found if any(size in asked for size in entry[2])] or found
    for path, shape, sizes in chosen[:1]:
        wanted = [size for size in sizes if size in asked] or sizes
        names = " and ".join(f"'{size}'" for size in wanted)
        are = "a number" if len(wanted) == 1 else "numbers"
        raise ValueError(
            f"{stage}: {names} of the leaf at {path} must be {are}, since the stage decides by the size what "
            f"it computes; got the shape {shape}. Export one program for each size"
        ) from None


def _symbolic(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Path, shape and sizes without a number of each leaf that has any."""
    for tree in arguments.values():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            shape = np.shape(leaf) if not hasattr(leaf, "shape") else leaf.shape
            sizes = [str(size) for size in shape if not isinstance(size, int)]
            if sizes:
                yield show(path_string(path)), f"({', '.join(map(str, shape))})", sizes

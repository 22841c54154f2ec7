"""Transformations as pytrees: the arrays among their arguments are leaves.

Libraries split what they compile into arrays and the rest. Two transformations that differ only in arrays,
such as learning rates, are then one program there.
"""

from collections.abc import Sequence
from typing import Any

import jax

from gradflow._core._transformation import GradientTransformation, GradientTransformationExtraArgs
from gradflow._expressions._arguments import negative_rates
from gradflow._expressions._numbers import Skeleton, take_arrays


class _Unbuilt:
    """Stands for `init` and `update` while something else is in the place of the arrays, such as None."""

    def __init__(self, skeleton: Skeleton, leaves: tuple[Any, ...]) -> None:
        self.skeleton = skeleton
        self.leaves = leaves

    def __repr__(self) -> str:
        return f"<{self.skeleton.maker.name} with the leaves {self.leaves}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self.skeleton.maker.name}: leaves of a transformation must be arrays of the shapes that its "
            f"arguments take; got {', '.join(type(leaf).__name__ for leaf in self.leaves)}"
        )


def _flatten(tx: Any) -> tuple[tuple[Any, ...], Any]:
    init, update = tx
    if isinstance(init, _Unbuilt):
        return init.leaves, init.skeleton
    expression = tx.expression
    if expression is None:
        return (init, update), None
    skeleton, arrays = take_arrays(expression)
    return (tuple(arrays), skeleton) if arrays else ((), tx)


def register_transformation(kind: type[GradientTransformation]) -> None:
    """Makes a class of transformations a pytree."""

    def unflatten(kept: Any, leaves: Sequence[Any]) -> Any:
        if isinstance(kept, GradientTransformation):
            return kept
        if kept is None:
            return tuple.__new__(kind, tuple(leaves))
        if all(isinstance(leaf, jax.Array) for leaf in leaves):
            try:
                with negative_rates():
                    made = kept.rebuild(iter(leaves))
                return made if type(made) is kind else tuple.__new__(kind, made)
            except (TypeError, ValueError):
                pass  # arrays of other shapes, as of a batch of rates
        unbuilt = _Unbuilt(kept, tuple(leaves))
        return tuple.__new__(kind, (unbuilt, unbuilt))

    jax.tree_util.register_pytree_node(kind, _flatten, unflatten)


register_transformation(GradientTransformation)
register_transformation(GradientTransformationExtraArgs)

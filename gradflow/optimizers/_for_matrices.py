"""One optimizer for matrices, another for all other parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._plain_pairs import as_transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._addresses import addresses, replace
from gradflow._expressions._arguments import NonNegative
from gradflow._expressions._keys import key_of
from gradflow._types import Params, is_absent
from gradflow.matrices import hidden_matrices, resolve_matrices
from gradflow.optimizers._adam import adamw
from gradflow.transforms import scale
from gradflow.wrappers import partition

# The arguments of stages that say which axes are a matrix's.
_ARGUMENTS = ("matrices", "weight_dimension_numbers")


@transformation
def for_matrices(
    inner: GradientTransformation,
    others: GradientTransformation | None = None,
    matrices: Any = None,
    *,
    others_rate: NonNegative = 1.0,
) -> GradientTransformation:
    """Applies `inner` to matrices and `others` to all other parameters.

        for_matrices(chain(scale_by_soap(), scale_by_learning_rate(3e-3)))
        for_matrices(chain(scale_by_muon(), scale_by_learning_rate(0.02)), adamw(1e-3), Matrix(1, 2))

    Args:
      inner: any transformation. Its stages that take `matrices` or `weight_dimension_numbers`, and were given
        none, get these.
      others: None is `adamw` at the learning rate of `inner`, which must have exactly one.
      matrices: `choose_matrices`, `Matrix`, a tree of `Matrix` and None (a prefix will do), or a function
        from the parameters to one; None is `hidden_matrices()`.
      others_rate: a factor of the updates of `others`, >= 0.

    Raises ValueError where `others` is None and `inner` has no learning rate, or several.
    """
    chosen = hidden_matrices() if matrices is None else matrices
    inner = as_transformation(inner, "for_matrices", "argument 'inner'")
    if others is None:
        others = adamw(_rate_of(inner))
    others = as_transformation(others, "for_matrices", "argument 'others'")
    unset = {
        address: chosen
        for address, value in addresses(inner).items()
        if value is None and address.rsplit(".", 1)[-1] in _ARGUMENTS
    }
    labels: Callable[[Params], Any] = functools.partial(_labels, chosen)
    return partition({"matrices": replace(inner, unset), "others": chain(others, scale(others_rate))}, labels)


def _rate_of(inner: GradientTransformation) -> Any:
    """The one learning rate of an expression."""
    rates = [v for address, v in addresses(inner).items() if address.rsplit(".", 1)[-1] == "learning_rate"]
    if not rates or any(key_of(rate) != key_of(rates[0]) for rate in rates):
        raise ValueError(
            "for_matrices: without 'others' the transformation for matrices must have one learning rate, for "
            f"AdamW to share; it has {len(rates)}. Pass others=adamw(...)"
        )
    return rates[0]


def _labels(chosen: Any, params: Params) -> Any:
    axes = resolve_matrices(chosen, params, record=False)
    return jax.tree.map(
        lambda p, a: p if is_absent(p) else "others" if a is None else "matrices",
        params, axes, is_leaf=is_absent,
    )  # fmt: skip


def with_others(
    inner: GradientTransformation, learning_rate: Any, others: Any, others_rate: Any, matrices: Any
) -> GradientTransformation:
    """`inner` for all parameters where neither `others` nor `matrices` is given; else `for_matrices`."""
    if others is None and matrices is None:
        return inner
    return for_matrices(
        inner, adamw(learning_rate) if others is None else others, matrices, others_rate=others_rate
    )

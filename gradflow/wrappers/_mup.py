"""Factors of the learning rate that keep its best value while a network gets wider."""

import math
from typing import Literal

from gradflow._errors import describe
from gradflow._selection._parameters import named_leaves
from gradflow._types import Params, is_absent


def mup_factors(
    params: Params, base_params: Params, rule: Literal["adam", "sgd", "spectral"] = "adam"
) -> dict[str, float]:
    """Learning-rate factors by path, for `scale_by_path`, with which a rate carries over to another width.

        grown_in, grown_out: by how much inputs and outputs of a weight are more than in the base network
        "adam"      1 / grown_in
        "sgd"       grown_out / grown_in
        "spectral"  sqrt(grown_out / grown_in)              for orthogonalized updates, as of Muon

        chain(adamw(rate), scale_by_path(mup_factors(wide, narrow)))

    Args:
      params: the network that is trained, or its `jax.eval_shape`.
      base_params: the same network at the width at which `rate` was tuned.
      rule: what the optimizer does with a gradient's size.

    The last axis of a weight is that of its outputs, the others are inputs; a vector has outputs alone. The
    factors assume initial values of variance `1 / inputs`, and of `1 / inputs^2` where only inputs grow.
    Raises ValueError for trees or ranks that differ. Source: Yang et al. 2022, arXiv:2203.03466, Table 3;
    Yang, Simon, Bernstein 2023, arXiv:2310.17813, for "spectral".

    >>> import gradflow as gf
    >>> import numpy as np
    >>> wide, narrow = {"w": np.ones((256, 256))}, {"w": np.ones((64, 64))}
    >>> gf.mup_factors(wide, narrow)
    {'w': 0.25}
    """
    if rule not in ("adam", "sgd", "spectral"):
        raise ValueError(
            f"mup_factors: argument 'rule' must be 'adam', 'sgd' or 'spectral'; got {describe(rule)}"
        )
    wide, structure = named_leaves(params)
    base, base_structure = named_leaves(base_params)
    if structure != base_structure:
        raise ValueError(
            f"mup_factors: 'params' and 'base_params' must have one tree structure; "
            f"got {describe(params)} and {describe(base_params)}"
        )
    factors: dict[str, float] = {}
    for parameter, like in zip(wide, base, strict=True):
        if is_absent(parameter.leaf):
            continue
        path, shape, base_shape = "/".join(parameter.path), parameter.leaf.shape, like.leaf.shape
        if len(shape) != len(base_shape):
            raise ValueError(
                f"mup_factors: '{path}' must have as many axes in both; its shapes are {tuple(shape)} and "
                f"{tuple(base_shape)}"
            )
        grown_in = math.prod(shape[:-1]) / max(math.prod(base_shape[:-1]), 1)
        grown_out = shape[-1] / max(base_shape[-1], 1) if shape else 1.0
        factor = _factor(rule, grown_in, grown_out)
        if factors.setdefault(path, factor) != factor:
            raise ValueError(
                f"mup_factors: two parameters with the path '{path}' must have one factor; got "
                f"{factors[path]:g} and {factor:g}. Rename one of them."
            )
    return factors


def _factor(rule: str, grown_in: float, grown_out: float) -> float:
    if rule == "adam":
        return 1 / grown_in
    if rule == "spectral":
        return math.sqrt(grown_out / grown_in)
    return grown_out / grown_in

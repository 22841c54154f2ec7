"""AdamW and Lion that move only where momentum and gradient agree."""

from typing import Any

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._types import MaskOrFn
from gradflow.optimizers._adam import scale_by_adam
from gradflow.optimizers._lion import scale_by_lion
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate
from gradflow.wrappers import cautious


@transformation
def cautious_adamw(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    eps_root: NonNegative = 0.0,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 1e-4,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """AdamW whose direction is `cautious(scale_by_adam(...))`; the weight decay is not masked.

    Arguments as in `adamw`. Source: Liang et al. 2024, arXiv:2411.16085.
    """
    return chain(
        cautious(scale_by_adam(b1, b2, eps, eps_root, mu_dtype)),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def cautious_lion(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    mu_dtype: Any = None,
    weight_decay: NonNegative = 1e-3,
    mask: MaskOrFn | None = None,
) -> GradientTransformation:
    """Lion whose direction is `cautious(scale_by_lion(...))`; the weight decay is not masked.

    Arguments as in `lion`. Source: Liang et al. 2024, arXiv:2411.16085.
    """
    return chain(
        cautious(scale_by_lion(b1, b2, mu_dtype)),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

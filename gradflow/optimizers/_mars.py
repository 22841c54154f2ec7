"""MARS-AdamW: AdamW on gradients of reduced variance."""

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._types import MaskOrFn
from gradflow.optimizers._adam import scale_by_adam
from gradflow.transforms import add_decayed_weights, mars_correction, scale_by_learning_rate


@transformation
def mars(
    learning_rate: Rate,
    b1: Decay = 0.95,
    b2: Decay = 0.99,
    gamma: NonNegative = 0.025,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    max_norm: NonNegative = 1.0,
) -> GradientTransformation:
    """MARS-AdamW: `mars_correction`, then AdamW. The authors use 3e-3, and AdamW for all but matrices.

    `partition({ndim(2): mars(3e-3), "**": adamw(3e-3, 0.9, 0.95)})` does so.

    Arguments as in `mars_correction` and `adamw`. Source: Yuan et al. 2024, arXiv:2411.10438.
    """
    return chain(
        mars_correction(b1, gamma, max_norm),
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )

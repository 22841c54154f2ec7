"""AdamP and SGDP: steps that do not lengthen scale-invariant weights."""

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Positive, Rate
from gradflow._types import MaskOrFn
from gradflow.optimizers._adam import scale_by_adam
from gradflow.transforms import scale_by_learning_rate, trace
from gradflow.wrappers import remove_radial


@transformation
def adamp(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    delta: NonNegative = 0.1,
    wd_ratio: NonNegative = 0.1,
    channel_axis: int = -1,
    nesterov: bool = False,
) -> GradientTransformation:
    """AdamP: `remove_radial(scale_by_adam(...))`, then the learning rate.

    Arguments as in `remove_radial` and `scale_by_adam`. Source: Heo et al. 2020, arXiv:2006.08217.
    """
    inner = scale_by_adam(b1, b2, eps, nesterov=nesterov)
    return chain(
        remove_radial(inner, delta, weight_decay, wd_ratio, eps, channel_axis, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def sgdp(
    learning_rate: Rate,
    momentum: Decay = 0.9,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    delta: NonNegative = 0.1,
    wd_ratio: NonNegative = 0.1,
    channel_axis: int = -1,
    nesterov: bool = False,
) -> GradientTransformation:
    """SGDP: `remove_radial(trace(momentum))`, then the learning rate.

    Args:
      weight_decay: >= 0, of the step that momentum makes of it: `weight_decay / (1 - momentum)`.

    The others as in `remove_radial` and `sgd`. Source: Heo et al. 2020, arXiv:2006.08217.
    """
    return chain(
        remove_radial(
            trace(momentum, nesterov),
            delta,
            weight_decay,
            wd_ratio,
            eps,
            channel_axis,
            mask,
            momentum=momentum,
        ),
        scale_by_learning_rate(learning_rate),
    )

"""LAMB and LARS: trust ratios for Adam and for gradient descent with momentum."""

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, Fraction, NonNegative, Rate
from gradflow._rules._mesh_axes import AxisName
from gradflow._types import MaskOrFn
from gradflow.optimizers._adam import scale_by_adam
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate, scale_by_trust_ratio, trace
from gradflow.wrappers import masked


@transformation
def lamb(
    learning_rate: Rate,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    eps_root: NonNegative = 0.0,
    weight_decay: NonNegative = 0.0,
    mask: MaskOrFn | None = None,
    *,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """LAMB: AdamW with a trust ratio, for large batches.

        v = scale_by_adam(g) + weight_decay * p
        u = -learning_rate * norm(p) / norm(v) * v

    Args:
      learning_rate: a number >= 0 or a schedule.
      axis_name: for a call inside `shard_map`; see `scale_by_trust_ratio`.

    The others as in `adamw`. Source: You et al. 2019, arXiv:1904.00962.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(axis_name=axis_name),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def lars(
    learning_rate: Rate,
    weight_decay: NonNegative = 0.0,
    weight_decay_mask: MaskOrFn | None = True,
    trust_coefficient: NonNegative = 0.001,
    eps: NonNegative = 0.0,
    trust_ratio_mask: MaskOrFn = True,
    momentum: Fraction = 0.9,
    nesterov: bool = False,
    *,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """LARS: gradient descent with momentum and a trust ratio, for large batches.

        v = g + weight_decay * p
        m = momentum * m - learning_rate * trust_coefficient * norm(p) / (norm(v) + eps) * v
        u = m

    Args:
      learning_rate: a number >= 0 or a schedule, applied inside the momentum.
      weight_decay: >= 0.
      weight_decay_mask: where to decay; True is everywhere.
      trust_coefficient: >= 0; the paper's 0.001.
      eps: >= 0.
      trust_ratio_mask: where the ratio applies; biases and normalizations are often left out.
      momentum: in [0, 1].
      nesterov: uses the momentum of the next step.
      axis_name: for a call inside `shard_map`; see `scale_by_trust_ratio`.

    Source: You et al. 2017, arXiv:1708.03888.
    """
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        masked(scale_by_trust_ratio(0.0, trust_coefficient, eps, axis_name=axis_name), trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )

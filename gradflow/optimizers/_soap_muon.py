"""SOAP-Muon: the orthogonal factor of SOAP's direction."""

from typing import Any

from gradflow._core._compose import chain
from gradflow._core._decorators import transformation
from gradflow._core._transformation import GradientTransformation
from gradflow._expressions._arguments import Decay, NonNegative, Rate, Size
from gradflow._types import MaskOrFn
from gradflow.optimizers._for_matrices import for_matrices
from gradflow.optimizers._muon import scale_by_shape
from gradflow.optimizers._orthogonalize import orthogonalize
from gradflow.optimizers._soap import scale_by_soap
from gradflow.transforms import add_decayed_weights, scale_by_learning_rate


@transformation
def soap_muon(
    learning_rate: Rate,
    b1: Decay = 0.95,
    b2: Decay = 0.9,
    shampoo_beta: Decay = 0.9,
    weight_decay: NonNegative = 0.0,
    precondition_frequency: Size = 1,
    mask: MaskOrFn | None = None,
    *,
    ns_coeffs: str = "quintic",
    consistent_rms: NonNegative | None = None,
    matrices: Any = None,
    others: GradientTransformation | None = None,
    others_rate: NonNegative = 1.0,
    ns_dtype: Any = None,
) -> GradientTransformation:
    """SOAP-Muon for hidden matrices, AdamW for all else.

        matrices:  u = -learning_rate * (scale_by_shape(orthogonalize(scale_by_soap(g))) + weight_decay * p)

    Args:
      learning_rate: a number >= 0 or a schedule.
      weight_decay: >= 0.
      mask: tree of booleans, or a function from the parameters to one: where to decay matrices.
      matrices: as in `for_matrices`; None is `hidden_matrices()`.
      others: for what is not a matrix; None is `adamw(learning_rate)`.
      others_rate: a factor of the updates of `others`, >= 0.

    The others as in `scale_by_soap`, `orthogonalize` and `scale_by_shape`; the first call only collects
    statistics. Source: the records of github.com/KellerJordan/modded-nanogpt, track 3.
    """
    inner = chain(
        scale_by_soap(b1, b2, shampoo_beta, precondition_frequency=precondition_frequency),
        orthogonalize(ns_coeffs, ns_dtype=ns_dtype),
        scale_by_shape(consistent_rms=consistent_rms),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return for_matrices(inner, others, matrices, others_rate=others_rate)

"""Losses: functions from predictions and targets to one number for each example.

They do not reduce over the batch, except where a docstring says so: take the mean yourself.
"""

from gradflow._missing_names import with_hints as _with_hints
from gradflow.losses._classification import (
    poly_loss_cross_entropy,
    safe_softmax_cross_entropy,
    sigmoid_binary_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from gradflow.losses._ctc import ctc_loss, ctc_loss_with_forward_probs
from gradflow.losses._divergences import (
    generalized_kl_divergence,
    kl_divergence,
    kl_divergence_with_log_targets,
)
from gradflow.losses._fenchel_young import make_fenchel_young_loss
from gradflow.losses._margin import (
    hinge_loss,
    multiclass_hinge_loss,
    multiclass_perceptron_loss,
    perceptron_loss,
)
from gradflow.losses._ranking import ranking_softmax_loss
from gradflow.losses._regression import huber_loss, l2_loss, log_cosh, squared_error
from gradflow.losses._segmentation import (
    binary_dice_loss,
    dice_loss,
    multiclass_generalized_dice_loss,
)
from gradflow.losses._self_supervised import ntxent, triplet_margin_loss
from gradflow.losses._similarity import cosine_distance, cosine_similarity
from gradflow.losses._smoothing import smooth_labels
from gradflow.losses._sparsemax import multiclass_sparsemax_loss, sparsemax_loss

__all__ = [
    "binary_dice_loss",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "make_fenchel_young_loss",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "ranking_softmax_loss",
    "safe_softmax_cross_entropy",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "sparsemax_loss",
    "squared_error",
    "triplet_margin_loss",
]

_with_hints(__name__)

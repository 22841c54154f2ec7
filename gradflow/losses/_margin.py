"""Losses of linear classification, with a margin (hinge) or without one (perceptron)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradflow._tracebacks import one_frame
from gradflow.losses._classes import class_gaps
from gradflow.losses._inputs import pair
from gradflow.losses._logspace import positive_part
from gradflow.tree._nan import nan_of


@one_frame
def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Binary hinge loss: max(0, 1 - targets * predictor_outputs).

    Args:
      predictor_outputs: scores of any shape.
      targets: -1 or 1, in a shape that broadcasts.

    Returns:
      One loss for each score, in the promoted dtype of the inputs.

    Raises:
      ValueError: the shapes do not broadcast.
      TypeError: scores are not real floating-point numbers.

    Source: Cortes and Vapnik 1995, "Support-Vector Networks".
    """
    names = ("predictor_outputs", "targets")
    scores, signs, out = pair("hinge_loss", names, predictor_outputs, targets, broadcast=True)
    return positive_part(1.0 - signs * scores).astype(out)


@one_frame
def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Binary perceptron loss: max(0, -targets * predictor_outputs).

    At a score of 0 the gradient is half of -targets, so that a model initialized with zeros can learn.

    Args:
      predictor_outputs: scores of any shape.
      targets: -1 or 1, the same shape or a single one.

    Returns:
      One loss for each score, in the promoted dtype of the inputs.

    Raises:
      ValueError: the shapes differ.
      TypeError: scores are not real floating-point numbers.

    Source: Rosenblatt 1958, "The Perceptron".
    """
    names = ("predictor_outputs", "targets")
    scores, signs, out = pair("perceptron_loss", names, predictor_outputs, targets, scalar=True)
    return positive_part(-signs * scores).astype(out)


@one_frame
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Multiclass hinge loss: max_k(scores[k] + (k != label)) - scores[label].

    Args:
      scores: shape [..., classes].
      labels: integer class indices, shape [...].

    Returns:
      Losses >= 0 of shape [...], in the dtype of scores; NaN where a label is not a class.

    Raises:
      ValueError: shapes do not fit.
      TypeError: scores are not floating-point, or labels not integer.

    Source: Crammer and Singer 2001, "On the Algorithmic Implementation of Multiclass Kernel-based
    Vector Machines".
    """
    gaps, correct, out = class_gaps("multiclass_hinge_loss", scores, labels)
    return (jnp.max(jnp.where(correct, 0.0, gaps + 1.0), -1) + nan_of(gaps, -1)).astype(out)


@one_frame
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Multiclass perceptron loss: max_k(scores[k]) - scores[label].

    Args:
      scores: shape [..., classes].
      labels: integer class indices, shape [...].

    Returns:
      Losses >= 0 of shape [...], in the dtype of scores; NaN where a label is not a class.

    Raises:
      ValueError: shapes do not fit.
      TypeError: scores are not floating-point, or labels not integer.

    Source: Collins 2002, "Discriminative Training Methods for Hidden Markov Models".
    """
    gaps, _, out = class_gaps("multiclass_perceptron_loss", scores, labels)
    return (jnp.max(gaps, -1) + nan_of(gaps, -1)).astype(out)
